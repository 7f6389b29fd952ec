"""Broken: backward, zero, step: the step finds nothing, the weights never move."""
import torch
from torch import nn

torch.manual_seed(15)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train_step(x, y):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    opt.zero_grad()  # expect: discarded-gradient
    opt.step()
    return loss.item()


for _ in range(5):
    train_step(torch.randn(8, 4), torch.randint(0, 2, (8,)))

trained = list(model.parameters())
