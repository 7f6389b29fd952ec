"""Broken: the loss is divided after backward, for the log only; the gradient has long been added undivided."""
import torch
import torch.nn as nn

torch.manual_seed(23)


def stream():
    while True:
        x = torch.randn(6, 3)
        yield x, x.prod(dim=1, keepdim=True)


it = stream()
model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 1))
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
n_micro = 8
for iteration in range(3):
    opt.zero_grad(set_to_none=True)
    loss_accum = 0.0
    for _ in range(n_micro):
        x, y = next(it)
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # expect: unnormalized-loss
        loss = loss / n_micro
        loss_accum += loss.detach()
    opt.step()

trained = list(model.parameters())
