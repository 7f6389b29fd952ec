"""Correct: mean losses, each weighted by its share of the window's tokens."""
import torch

torch.manual_seed(27)
emb = torch.nn.Embedding(20, 6)
head = torch.nn.Linear(6, 20)
optimizer = torch.optim.SGD([*emb.parameters(), *head.parameters()], lr=0.5)
ce = torch.nn.CrossEntropyLoss(ignore_index=0)

for update in range(4):
    micro = []
    for size in (2, 5, 3):
        src = torch.randint(1, 20, (size, 7))
        tgt = torch.randint(0, 20, (size, 7))
        micro.append((src, tgt))
    counts = [(t != 0).sum() for _, t in micro]
    total = torch.stack(counts).sum()
    for (src, tgt), count in zip(micro, counts):
        loss = ce(head(emb(src)).reshape(-1, 20), tgt.reshape(-1))
        (loss * (count / total)).backward()
    optimizer.step()
    optimizer.zero_grad()

trained = [*emb.parameters(), *head.parameters()]
