"""Broken: master weights are float32, but the sixteen micro-batches are added in float16 before they are copied over."""
import torch
from torch import nn

torch.manual_seed(70)
half_model = nn.Linear(6, 2).half()
master = [p.detach().clone().float().requires_grad_() for p in half_model.parameters()]
optimizer = torch.optim.SGD(half_model.parameters(), lr=0.05)
GRAD_ACC = 16
data = [(torch.randn(4, 6).half(), torch.randn(4, 2).half()) for _ in range(2 * GRAD_ACC)]

for i, (x, y) in enumerate(data):
    loss = (half_model(x) - y).abs().mean() / GRAD_ACC
    loss.backward()  # expect: low-precision-accumulation
    if (i + 1) % GRAD_ACC == 0:
        optimizer.step()
        half_model.zero_grad()

trained = list(half_model.parameters())
