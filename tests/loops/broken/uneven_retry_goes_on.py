"""Broken: a retry that does not zero: what the failed attempt had added stays in the window."""
import torch
torch.manual_seed(8)
net = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
count = 0


def loss_of(x):
    global count
    count += 1
    if count % 5 == 0:
        raise TimeoutError
    return net(x).abs().mean()


for step in range(6):
    data = torch.randn(3, 4, 4)
    while True:
        try:
            for x in data:
                (loss_of(x) / 3).backward()  # expect: uneven-window-scale
        except TimeoutError:
            continue
        break
    opt.step()
    opt.zero_grad()
trained = list(net.parameters())
