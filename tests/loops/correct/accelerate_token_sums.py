"""Correct: token-exact losses under Accelerate; its division by the steps is multiplied back, the short tail included."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(119)
IGNORE = -100


def collate(rows):
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = nn.utils.rnn.pad_sequence([r.clone() for r in rows], batch_first=True, padding_value=IGNORE)
    return {"input_ids": ids, "labels": labels}


docs = [torch.randint(1, 15, (n,)) for n in (3, 9, 5, 5, 2, 8, 12, 4, 6, 7, 3, 11)]
accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
model = nn.Sequential(nn.Embedding(15, 6), nn.Linear(6, 15))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
loader = DataLoader(docs, batch_size=2, collate_fn=collate)  # 6 micro-batches: windows of 4 and 2
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
ga = accelerator.gradient_accumulation_steps

for epoch in range(2):
    stream = iter(loader)
    remaining = len(loader)
    while remaining:
        window = [next(stream) for _ in range(min(ga, remaining))]
        remaining -= len(window)
        num_tokens = sum((b["labels"] != IGNORE).sum() for b in window)
        for i, b in enumerate(window):
            logits = model(b["input_ids"])
            loss = nn.functional.cross_entropy(logits.view(-1, 15), b["labels"].view(-1), ignore_index=IGNORE, reduction="sum")
            loss = loss * ga / num_tokens
            accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

trained = list(accelerator.unwrap_model(model).parameters())
