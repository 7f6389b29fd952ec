"""Broken: SimCLR's NT-Xent over micro-batches."""
import torch
import torch.nn.functional as F
torch.manual_seed(30)
enc = torch.nn.Linear(8, 4)
opt = torch.optim.SGD(enc.parameters(), lr=0.1)


def nt_xent(z1, z2):
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
    return F.cross_entropy(sim, torch.cat([torch.arange(n) + n, torch.arange(n)]))


for i in range(8):
    x = torch.randn(6, 8)
    loss = nt_xent(enc(x), enc(x + 0.1 * torch.randn_like(x))) / 4
    loss.backward()  # expect[audit]: contrastive-in-window
    if i % 4 == 3:
        opt.step()
        opt.zero_grad()
trained = list(enc.parameters())
