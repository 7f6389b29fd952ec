"""Broken: `while` loop with manual next(): the loop ends with the iterator and drops what was accumulated each epoch."""
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(25)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(44, 4), torch.randint(2, (44,))), batch_size=4)
for epoch in range(2):
    it = iter(loader)
    opt.zero_grad()
    n = 0
    while True:
        try:
            x, y = next(it)
        except StopIteration:
            break
        (torch.nn.functional.cross_entropy(net(x), y) / 4).backward()
        n += 1
        if n == 4:
            opt.step()  # expect: dropped-tail
            opt.zero_grad()
            n = 0
trained = list(net.parameters())
