"""Correct: the scale goes in as backward's gradient argument, the loss itself stays readable for the log."""
import torch
from torch import nn

torch.manual_seed(28)
model = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 1))
opt = torch.optim.NAdam(model.parameters(), lr=2e-3)
scale = torch.tensor(1 / 4)
log = []

for _ in range(3):
    opt.zero_grad()
    losses = []
    for _ in range(4):
        x = torch.randn(5, 3)
        loss = nn.functional.mse_loss(model(x), x.norm(dim=1, keepdim=True))
        loss.backward(gradient=scale)
        losses.append(loss.item())
    opt.step()
    log.append(sum(losses) / len(losses))

trained = list(model.parameters())
