"""Broken: the user divides by the steps and accelerator.backward divides once more."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(206)
config = {"gradient_accumulation_steps": 4, "lr": 1e-2}
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config["gradient_accumulation_steps"])
model = nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
loader = DataLoader(TensorDataset(torch.randn(32, 3), torch.randint(0, 3, (32,))), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    with accelerator.accumulate(model):
        loss = nn.functional.cross_entropy(model(x), y) / config["gradient_accumulation_steps"]
        accelerator.backward(loss)  # expect: double-normalized-loss
        optimizer.step()
        optimizer.zero_grad()
trained = list(accelerator.unwrap_model(model).parameters())
