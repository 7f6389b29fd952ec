"""Correct: epochs, rounds and micro-batches all count with `_`; the step is in the innermost loop, by a counter."""
import torch
torch.manual_seed(2)
net = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
counter = 0
for _ in range(2):
    for _ in range(3):
        for _ in range(6):
            (net(torch.randn(4, 4)).pow(2).mean() / 4).backward()
            counter += 1
            if counter % 4 == 0:
                opt.step()
                opt.zero_grad()
trained = list(net.parameters())
