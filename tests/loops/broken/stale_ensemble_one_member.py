"""Broken: an ensemble; the zeroing loop ends one member too early."""
import torch
from torch import nn

torch.manual_seed(513)
nets = [nn.Linear(3, 1) for _ in range(3)]
main_opts = [torch.optim.SGD(n.parameters(), lr=0.05) for n in nets[:2]]
last_opt = torch.optim.SGD(nets[2].parameters(), lr=0.05)
for x in torch.randn(5, 6, 3):
    for o in main_opts:
        o.zero_grad()
    for n in nets:
        nn.functional.mse_loss(n(x), x[:, :1]).backward()
    for o in main_opts:
        o.step()
    last_opt.step()  # expect: stale-gradient
trained = [p for n in nets for p in n.parameters()]
