"""Broken: a pure bfloat16 model adds 32 micro-batches in bfloat16; small contributions round away (DeepSpeed#1800's kind)."""
import torch
from torch import nn

torch.manual_seed(69)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).to(torch.bfloat16)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
n = 32
for update in range(2):
    for _ in range(n):
        x = torch.randn(4, 8, dtype=torch.bfloat16)
        loss = nn.functional.mse_loss(model(x), x) / n
        loss.backward()  # expect: low-precision-accumulation
    opt.step()
    opt.zero_grad()

trained = list(model.parameters())
