"""Broken: generator and discriminator both wait for the third batch of an epoch of seven; each throws one batch away."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(143)
gen, disc = nn.Linear(2, 2), nn.Linear(2, 1)
opts = [torch.optim.Adam(disc.parameters(), 1e-3), torch.optim.Adam(gen.parameters(), 1e-3)]
n_critic = 3
for epoch in range(2):
    for o in opts:
        o.zero_grad()
    for i, real in enumerate(torch.randn(7, 5, 2)):
        fake = gen(torch.randn(5, 2))
        disc.requires_grad_(True)
        d_loss = F.softplus(-disc(real)).mean() + F.softplus(disc(fake.detach())).mean()
        (d_loss / n_critic).backward()
        disc.requires_grad_(False)
        g_loss = F.softplus(-disc(fake)).mean()
        (g_loss / n_critic).backward()
        if i % n_critic == n_critic - 1:
            for o in opts:
                o.step()  # expect: dropped-tail
                o.zero_grad()
trained = [*gen.parameters(), *disc.parameters()]
