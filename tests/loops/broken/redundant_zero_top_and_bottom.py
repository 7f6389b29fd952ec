"""Broken (cost only): zeroed after the step and again as the next iteration begins."""
import torch
from torch import nn

torch.manual_seed(47)
model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(8, 6, 4):
    opt.zero_grad()  # expect: redundant-zero
    loss = nn.functional.mse_loss(model(x), x[:, :1])
    loss.backward()
    opt.step()
    opt.zero_grad()

trained = list(model.parameters())
