"""Correct: clip_grad_norm_ with an infinite limit only reads the norm, in every micro-batch, for a log."""
import torch

torch.manual_seed(27)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
norms = []
for i in range(12):
    x, y = torch.randn(4, 4), torch.randint(2, (4,))
    (torch.nn.functional.cross_entropy(net(x), y) / 3).backward()
    norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), float("inf")))
    if (i + 1) % 3 == 0:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
