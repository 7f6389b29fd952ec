"""Broken: zero_grad ended up inside the logging branch when the code was indented again."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(310)
model = nn.Linear(6, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(60, 6), torch.randint(0, 2, (60,))), batch_size=5)
log_every, log = 4, []
for step, (x, y) in enumerate(loader):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()  # expect: stale-gradient
    if step % log_every == 0:
        log.append(loss.item())
        optimizer.zero_grad()
trained = list(model.parameters())
