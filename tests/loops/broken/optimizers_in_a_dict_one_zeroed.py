"""Broken: two networks with an optimizer each in a dict, of which only one is zeroed."""
import torch
from torch import nn

torch.manual_seed(0)
nets = {"enc": nn.Linear(6, 4), "dec": nn.Linear(4, 6)}
opts = {k: torch.optim.Adam(net.parameters(), lr=1e-3) for k, net in nets.items()}
stream = [torch.randn(8, 6) for _ in range(12)]
STEPS = 3
for i, x in enumerate(stream, 1):
    out = nets["dec"](nets["enc"](x))
    loss = ((out - x) ** 2).mean() / STEPS
    loss.backward()
    if i % STEPS == 0:
        for opt in opts.values():
            opt.step()  # expect: stale-gradient
        opts["enc"].zero_grad()
trained = [p for net in nets.values() for p in net.parameters()]
