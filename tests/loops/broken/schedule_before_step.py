"""Broken: the scheduler steps before the optimizer in each update, so the first learning rate is never used."""
import torch
from torch import nn

torch.manual_seed(77)
model = nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
for batch in torch.randn(8, 5, 3):
    optimizer.zero_grad()
    loss = (model(batch) - batch).pow(2).mean()
    loss.backward()
    scheduler.step()  # expect: scheduler-before-step
    optimizer.step()

trained = list(model.parameters())
