"""Broken: foreach EMA per micro-batch."""
import torch
torch.manual_seed(6)
net = torch.nn.Linear(4, 2)
params = list(net.parameters())
avg = [p.detach().clone() for p in params]
opt = torch.optim.Adam(params, lr=1e-3)
for step in range(12):
    (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 4).backward()
    with torch.no_grad():
        torch._foreach_mul_(avg, 0.9)
        torch._foreach_add_(avg, params, alpha=0.1)  # expect[audit]: average-per-micro-batch
    if (step + 1) % 4 == 0:
        opt.step()
        opt.zero_grad()
trained = params
