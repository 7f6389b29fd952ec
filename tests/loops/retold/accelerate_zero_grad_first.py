"""Broken: zero_grad first inside accumulate(); it acts just when the window is about to close and wipes it (accelerate#616)."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(202)
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
training_dataloader = DataLoader(TensorDataset(torch.randn(24, 3), torch.randn(24, 1)), batch_size=4)
model, optimizer, training_dataloader = accelerator.prepare(model, optimizer, training_dataloader)

for batch in training_dataloader:
    with accelerator.accumulate(model):
        optimizer.zero_grad()  # expect: discarded-gradient
        inputs, targets = batch
        loss = nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()

trained = list(accelerator.unwrap_model(model).parameters())
