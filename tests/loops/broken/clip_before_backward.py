"""Broken: zero, clip, backward, step: the clip sees empty gradients, nothing was ever clipped (nano-world-model PR#22)."""
import torch
from torch import nn

torch.manual_seed(64)
model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 5))
opt = torch.optim.Adam(model.parameters(), lr=1e-2)


def optimize(loss, max_norm=1.0):
    opt.zero_grad(set_to_none=False)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)  # expect: clip-after-step
    loss.backward()
    opt.step()


for _ in range(5):
    x = torch.randn(4, 5)
    optimize((model(x) - x).square().mean())
trained = list(model.parameters())
