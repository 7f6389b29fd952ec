"""Broken: Accelerate with two accumulation steps, and the user divides too."""
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(7)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = torch.nn.Linear(6, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(32, 6), torch.randint(3, (32,))), batch_size=4)
model, opt, loader = accelerator.prepare(model, opt, loader)
for x, y in loader:
    with accelerator.accumulate(model):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss = loss / accelerator.gradient_accumulation_steps
        accelerator.backward(loss)  # expect[audit]: double-normalized-loss
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
