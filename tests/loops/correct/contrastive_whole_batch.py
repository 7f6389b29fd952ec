"""Correct: SimCLR without accumulation: NT-Xent over the whole batch, LARS-like scaling in the optimizer group."""
import torch
import torch.nn.functional as F

torch.manual_seed(30)
enc = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
opt = torch.optim.SGD(enc.parameters(), lr=0.3, momentum=0.9)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=5)


def nt_xent(z1, z2, tau=0.5):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = z @ z.T / tau
    sim.fill_diagonal_(-1e9) if not sim.requires_grad else None
    n = z1.size(0)
    mask = torch.eye(2 * n, dtype=torch.bool)
    labels = torch.cat([torch.arange(n) + n, torch.arange(n)])
    return F.cross_entropy(sim.masked_fill(mask, -1e9), labels)


for step in range(5):
    x = torch.randn(12, 8)
    loss = nt_xent(enc(x + 0.1 * torch.randn_like(x)), enc(x + 0.1 * torch.randn_like(x)))
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
trained = list(enc.parameters())
