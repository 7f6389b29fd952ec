"""Correct: a torch.compile'd model, accumulated; gradients zeroed in place to keep their addresses."""
import torch
from torch import nn

torch.manual_seed(116)
raw = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
model = torch.compile(raw, backend="eager")
opt = torch.optim.SGD(raw.parameters(), lr=0.1)
for update in range(3):
    for _ in range(2):
        x = torch.randn(6, 4)
        loss = nn.functional.mse_loss(model(x), x) / 2
        loss.backward()
    opt.step()
    opt.zero_grad(set_to_none=False)
trained = list(raw.parameters())
