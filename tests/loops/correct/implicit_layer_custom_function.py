"""Correct: a deep equilibrium layer whose backward hook solves a fixed point with autograd.grad, inside windows of two."""
import torch
from torch import nn


class DEQ(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w, self.u = nn.Linear(n, n), nn.Linear(n, n)
        with torch.no_grad():
            self.w.weight.mul_(0.3)

    def f(self, z, x):
        return torch.tanh(self.w(z) + self.u(x))

    def forward(self, x):
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(20):
                z = self.f(z, x)
        z = self.f(z, x)
        z0 = z.clone().detach().requires_grad_()
        f0 = self.f(z0, x)

        def backward_hook(grad):
            g = grad
            for _ in range(10):
                g = torch.autograd.grad(f0, z0, g, retain_graph=True)[0] + grad
            return g

        if z.requires_grad:
            z.register_hook(backward_hook)
        return z


torch.manual_seed(23)
net = nn.Sequential(nn.Linear(4, 6), DEQ(6), nn.Linear(6, 2))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for n, x in enumerate(torch.randn(8, 5, 4), start=1):
    y = (x[:, 0] > 0).long()
    (nn.functional.cross_entropy(net(x), y) / 2).backward()
    if n % 2 == 0:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
