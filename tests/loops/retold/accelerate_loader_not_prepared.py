"""Broken: the loader was not handed to prepare(), so accelerate cannot see its end and the last two micro-batches are lost."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(203)
accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
model = nn.Linear(6, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(60, 6), torch.randint(0, 2, (60,))), batch_size=6)
model, optimizer = accelerator.prepare(model, optimizer)

for x, y in loader:
    with accelerator.accumulate(model):
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()  # expect: dropped-tail
        optimizer.zero_grad()

trained = list(accelerator.unwrap_model(model).parameters())
