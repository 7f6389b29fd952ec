"""Correct: `continue` while the window fills, then update, gradients set to None by hand."""
import torch

torch.manual_seed(8)
batches = [(torch.randn(6, 3), torch.randn(6, 1)) for _ in range(8)]
k = 2

lin = torch.nn.Linear(3, 1)
sgd = torch.optim.SGD(lin.parameters(), lr=0.05)

for epoch in range(3):
    for i, (a, b) in enumerate(batches):
        err = ((lin(a) - b) ** 2).mean()
        err.div(k).backward()
        if (i + 1) % k != 0:
            continue
        sgd.step()
        for p in lin.parameters():
            p.grad = None

trained = [lin.weight, lin.bias]
