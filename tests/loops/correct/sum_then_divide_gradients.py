"""Correct: sum losses, samples counted, gradients divided once before the step: right for any sizes and any tail."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)
ds = TensorDataset(torch.randn(53, 8), torch.randint(0, 4, (53,)))
loader = DataLoader(ds, batch_size=5)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
loss_fn = nn.CrossEntropyLoss(reduction="sum")
opt = torch.optim.SGD(net.parameters(), lr=0.2)


def apply_update(num_samples):
    for p in net.parameters():
        p.grad.div_(num_samples)
    torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    opt.step()
    opt.zero_grad()


for epoch in range(2):
    seen = 0
    for n, (xb, yb) in enumerate(loader, start=1):
        loss_fn(net(xb), yb).backward()
        seen += len(xb)
        if n % 3 == 0:
            apply_update(seen)
            seen = 0
    if seen:
        apply_update(seen)

trained = list(net.parameters())
