"""Broken: inside accumulate(), but with loss.backward() instead of accelerator.backward(loss), so nothing is divided (accelerate's own docstring had it)."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(200)
accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
dataloader = DataLoader(TensorDataset(torch.randn(32, 5), torch.randn(32, 1)), batch_size=4)
model = nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
dataloader, model, optimizer = accelerator.prepare(dataloader, model, optimizer)

for input, output in dataloader:
    with accelerator.accumulate(model):
        outputs = model(input)
        loss = nn.functional.mse_loss(outputs, output)
        loss.backward()  # expect: unnormalized-loss
        optimizer.step()
        optimizer.zero_grad()

trained = list(accelerator.unwrap_model(model).parameters())
