"""Broken: two objectives by turns in one window, none divided."""
import torch
torch.manual_seed(1)
net = torch.nn.Linear(5, 5)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for i in range(16):
    x = torch.randn(6, 5)
    if i % 2:
        torch.nn.functional.mse_loss(net(x), x).backward()  # expect: unnormalized-loss
    else:
        torch.nn.functional.cross_entropy(net(x), torch.randint(5, (6,))).backward()  # expect: unnormalized-loss
    if i % 4 == 3:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
