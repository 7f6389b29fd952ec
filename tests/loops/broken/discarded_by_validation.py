"""Broken: a validation pass within the window zeroes the model at its start."""
import torch
torch.manual_seed(11)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)


def validate():
    net.eval()
    net.zero_grad()  # expect: discarded-gradient
    with torch.no_grad():
        value = net(torch.randn(16, 4)).mean().item()
    net.train()
    return value


for i in range(16):
    (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 4).backward()
    if i % 4 == 1:
        validate()
    if i % 4 == 3:
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
