"""Broken: the gradients are divided by K after every micro-batch instead of once."""
import torch
torch.manual_seed(28)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
K = 3
for i in range(9):
    loss = torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,)))
    loss.backward()
    for p in net.parameters():
        p.grad /= K  # expect: double-normalized-loss
    if i % K == K - 1:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
