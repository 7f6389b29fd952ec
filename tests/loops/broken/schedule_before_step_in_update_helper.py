"""Broken: in the helper that closes a window the schedule comes first, as old tutorials had it."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def end_of_window(optimizer, lr_scheduler, params, max_norm):
    nn.utils.clip_grad_norm_(params, max_norm)
    lr_scheduler.step()  # expect: scheduler-before-step
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


torch.manual_seed(78)
model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.9**n)
loader = DataLoader(TensorDataset(torch.randn(48, 6), torch.randint(0, 2, (48,))), batch_size=4)
n_acc = 3
for i, (x, y) in enumerate(loader):
    (nn.functional.cross_entropy(model(x), y) / n_acc).backward()
    if (i + 1) % n_acc == 0:
        end_of_window(optimizer, lr_scheduler, list(model.parameters()), 1.0)
trained = list(model.parameters())
