"""Broken: K grows with the epoch but the divisor stays the first K."""
import torch
torch.manual_seed(15)
net = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
K0 = 2
for epoch, k in enumerate([2, 4, 8]):
    seen = 0
    for i in range(8):
        x = torch.randn(4, 4)
        loss = (net(x) - 1).pow(2).mean() / K0
        loss.backward()  # expect: uneven-window-scale
        seen += 1
        if seen == k:
            opt.step()
            opt.zero_grad(set_to_none=False)
            seen = 0
trained = list(net.parameters())
