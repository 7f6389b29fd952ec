"""Broken: gradient_accumulation_steps=4, but no accumulate(): every micro-batch steps, with a quarter of its gradient."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(243)
accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(32, 6), torch.randint(0, 3, (32,))), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(2):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(loss)  # expect: uneven-window-scale
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
