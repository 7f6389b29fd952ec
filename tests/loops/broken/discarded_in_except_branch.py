"""Broken: training inside an except branch, zeroing in the window."""
import torch
torch.manual_seed(9)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
try:
    import a_fused_trainer_that_does_not_exist
except ImportError:
    for i in range(8):
        opt.zero_grad()  # expect[audit]: discarded-gradient
        (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 2).backward()
        if i % 2:
            opt.step()
trained = list(net.parameters())
