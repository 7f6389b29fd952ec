"""Correct: a GAN with a window of three for each player; the discriminator is frozen while the generator learns."""
import torch
from torch import nn
from torch.nn import functional as F


def requires_grad(model, flag=True):
    for p in model.parameters():
        p.requires_grad = flag


def sample(n):
    return torch.randn(n, 5)


torch.manual_seed(35)
g = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 3))
d = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 1))
g_optim = torch.optim.Adam(g.parameters(), lr=1e-3)
d_optim = torch.optim.Adam(d.parameters(), lr=1e-3)
n_acc = 3

for it in range(4):
    requires_grad(g, False)
    requires_grad(d, True)
    for _ in range(n_acc):
        real_pred, fake_pred = d(torch.randn(4, 3).abs()), d(g(sample(4)))
        d_loss = F.softplus(-real_pred).mean() + F.softplus(fake_pred).mean()
        d_loss = d_loss / n_acc
        d_loss.backward()
    d_optim.step()
    d_optim.zero_grad()

    requires_grad(g, True)
    requires_grad(d, False)
    for _ in range(n_acc):
        g_loss = F.softplus(-d(g(sample(4)))).mean() / n_acc
        g_loss.backward()
    g_optim.step()
    g_optim.zero_grad()

trained = [*g.parameters(), *d.parameters()]
