"""Broken: EMA through state_dict and lerp_, advanced in every micro-batch."""
import copy
import torch
torch.manual_seed(3)
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
ema_net = copy.deepcopy(net).requires_grad_(False)
opt = torch.optim.SGD(net.parameters(), lr=0.1)


@torch.no_grad()
def update_ema(target, source, rate):
    for t, s in zip(target.parameters(), source.parameters()):
        t.lerp_(s, 1 - rate)  # expect[audit]: average-per-micro-batch


for i in range(12):
    loss = torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 3
    loss.backward()
    update_ema(ema_net, net, 0.99)
    if i % 3 == 2:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
