"""Broken: accelerate's clipping without asking sync_gradients, so it clips after every micro-batch."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(204)
accelerator = Accelerator(gradient_accumulation_steps=3, cpu=True)
model = nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(36, 4)), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(2):
    for (x,) in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), 3 * x))
            accelerator.clip_grad_norm_(model.parameters(), 0.5)  # expect: clip-inside-window
            optimizer.step()
            optimizer.zero_grad()
trained = list(accelerator.unwrap_model(model).parameters())
