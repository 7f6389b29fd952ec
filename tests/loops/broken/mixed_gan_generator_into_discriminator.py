"""Broken: the generator's loss also fills the discriminator's gradients, and nobody zeroes them before it steps (OmniTokenizer#15)."""
import torch
from torch import nn

torch.manual_seed(41)
G = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
D = nn.Sequential(nn.Linear(2, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=2e-4)
opt_d = torch.optim.Adam(D.parameters(), lr=2e-4)
bce = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)

for real in torch.randn(6, 8, 2):
    fake = G(torch.randn(8, 4))
    g_loss = bce(D(fake), ones)
    g_loss.backward()
    opt_g.step()
    opt_g.zero_grad()

    d_loss = 0.5 * (bce(D(real), ones) + bce(D(fake.detach()), zeros))
    d_loss.backward()
    opt_d.step()  # expect: mixed-optimizer-gradients
    opt_d.zero_grad()

trained = [*G.parameters(), *D.parameters()]
