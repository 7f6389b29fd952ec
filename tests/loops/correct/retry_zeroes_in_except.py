"""Correct: a window that fails half-way is zeroed in `except` and tried again from its first micro-batch."""
import torch

torch.manual_seed(29)
net = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
attempts = {1: 1, 3: 2}


def flaky(step, micro):
    if micro == 2 and attempts.get(step, 0) > 0:
        attempts[step] -= 1
        raise ConnectionError("data source went away")


for step in range(5):
    data = [torch.randn(4, 4) for _ in range(4)]
    while True:
        try:
            for micro, x in enumerate(data):
                flaky(step, micro)
                (net(x).abs().mean() / len(data)).backward()
        except ConnectionError:
            opt.zero_grad()
            continue
        break
    opt.step()
    opt.zero_grad()
trained = list(net.parameters())
