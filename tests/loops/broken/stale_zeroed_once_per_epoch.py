"""Broken: zero_grad stands before the inner loop, once an epoch, although every batch steps (IDEA-Research/DAB-DETR#58)."""
import torch
import torch.nn.functional as F


def run_epoch(net, opt, xs, ys):
    opt.zero_grad()
    total = 0.0
    for x, y in zip(xs.split(5), ys.split(5)):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()  # expect: stale-gradient
        total += loss.item()
    return total / len(xs.split(5))


torch.manual_seed(11)
net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
xs, ys = torch.randn(20, 6), torch.randint(0, 3, (20,))
losses = [run_epoch(net, opt, xs, ys) for _ in range(3)]
trained = list(net.parameters())
