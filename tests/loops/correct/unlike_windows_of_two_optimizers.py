"""Correct: a discriminator that steps with every batch beside a generator whose window is four of them."""
import torch
from torch import nn

torch.manual_seed(43)
gen, disc = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 1))
g_opt, d_opt = torch.optim.Adam(gen.parameters(), 1e-3), torch.optim.Adam(disc.parameters(), 1e-3)
bce = nn.BCEWithLogitsLoss()
every = 4
g_opt.zero_grad()
for it in range(1, 17):
    real, noise = torch.randn(6, 3), torch.randn(6, 4)
    fake = gen(noise)
    d_opt.zero_grad()
    d_loss = 0.5 * (bce(disc(real), torch.ones(6, 1)) + bce(disc(fake.detach()), torch.zeros(6, 1)))
    d_loss.backward()
    d_opt.step()
    g_loss = bce(disc(fake), torch.ones(6, 1)) / every
    for g, p in zip(torch.autograd.grad(g_loss, list(gen.parameters())), gen.parameters()):
        p.grad = g if p.grad is None else p.grad + g
    if it % every == 0:
        g_opt.step()
        g_opt.zero_grad()
trained = [*gen.parameters(), *disc.parameters()]
