"""Correct: saliency maps need a backward too; the weights' gradients from it are cleared before training goes on."""
import torch
from torch import nn

torch.manual_seed(308)
model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
opt = torch.optim.SGD(model.parameters(), lr=0.1)


def saliency(x):
    x = x.clone().requires_grad_()
    model(x).max(1).values.sum().backward()
    model.zero_grad()
    return x.grad.abs()


maps = []
for epoch in range(3):
    for _ in range(4):
        x, y = torch.randn(5, 6), torch.randint(0, 2, (5,))
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
    maps.append(saliency(torch.randn(2, 6)))
trained = list(model.parameters())
