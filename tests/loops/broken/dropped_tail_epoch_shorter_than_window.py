"""Broken: three micro-batches an epoch, windows of eight: the run ends without a single update (as in PL#21808)."""
import torch
import torch.nn as nn


class Args:
    accumulate_grad_batches = 8
    epochs = 2


args = Args()
torch.manual_seed(18)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.Adam(model.parameters())
batches = [(torch.randn(4, 4), torch.randint(0, 2, (4,))) for _ in range(3)]

for epoch in range(args.epochs):
    model.zero_grad()
    for n_iter, (inp, tgt) in enumerate(batches):
        loss = nn.functional.cross_entropy(model(inp), tgt)
        loss = loss / args.accumulate_grad_batches
        loss.backward()  # expect: dropped-tail
        if (n_iter + 1) % args.accumulate_grad_batches == 0:
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.parameters())
