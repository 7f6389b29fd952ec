"""Broken: zero_grad is called on a deep copy of the model, kept for evaluation, not on the one that trains."""
import copy

import torch
from torch import nn

torch.manual_seed(411)
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
eval_model = copy.deepcopy(model)
opt = torch.optim.SGD(model.parameters(), lr=0.02)
for x in torch.randn(6, 8, 3):
    eval_model.zero_grad()
    loss = nn.functional.mse_loss(model(x), x[:, :1])
    loss.backward()
    opt.step()  # expect: stale-gradient
trained = list(model.parameters())
