"""Correct: NT-Xent with cached views of the window: 2N × 2N similarities with a masked diagonal, one fresh chunk per backward."""
import torch
import torch.nn.functional as F

torch.manual_seed(2)
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
ACCUM, N = 4, 6


def nt_xent(z1, z2, tau=0.5):
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    sim = (z @ z.T) / tau
    sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
    labels = torch.cat([torch.arange(n) + n, torch.arange(n)])
    return F.cross_entropy(sim, labels)


for update in range(4):
    opt.zero_grad()
    chunks = [(torch.randn(N, 8), torch.randn(N, 8)) for _ in range(ACCUM)]
    with torch.no_grad():
        z1 = torch.cat([net(x1) for x1, _ in chunks])
        z2 = torch.cat([net(x2) for _, x2 in chunks])
    for i, (x1, x2) in enumerate(chunks):
        rows = slice(i * N, (i + 1) * N)
        f1, f2 = z1.clone(), z2.clone()
        f1[rows] = net(x1)
        f2[rows] = net(x2)
        nt_xent(f1, f2).backward()
    opt.step()
trained = list(net.parameters())
