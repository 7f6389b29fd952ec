"""Broken: nested loops that bind `_`; ten micro-batches a pass, a step every four, zeroed at the start of each pass."""
import torch
torch.manual_seed(2)
net = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    opt.zero_grad()
    n = 0
    for _ in range(10):
        (net(torch.randn(4, 4)).pow(2).mean() / 4).backward()
        n += 1
        if n % 4 == 0:
            opt.step()  # expect: dropped-tail
            opt.zero_grad()
trained = list(net.parameters())
