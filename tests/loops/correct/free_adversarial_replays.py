"""Correct: "free" adversarial training: each batch replayed m times, one step per replay, the input's gradient from the same backward."""
import torch
from torch import nn

torch.manual_seed(28)
model = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2))
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
delta = torch.zeros(6, 8, requires_grad=True)
eps, m = 0.1, 3
for x in torch.randn(4, 6, 8):
    y = (x.sum(1) > 0).long()
    for replay in range(m):
        loss = nn.functional.cross_entropy(model(x + delta), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        delta.data = (delta + eps * delta.grad.detach().sign()).clamp(-eps, eps)
        delta.grad.zero_()
trained = list(model.parameters())
