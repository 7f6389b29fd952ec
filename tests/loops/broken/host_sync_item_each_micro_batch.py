"""Broken (speed, on an accelerator): .item() after every micro-batch makes the host wait for the device each time."""
import torch
from torch import nn

torch.manual_seed(87)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Linear(5, 1).to(device)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
n = 4
for update in range(3):
    running = 0.0
    for _ in range(n):
        x = torch.randn(8, 5).to(device)
        loss = nn.functional.mse_loss(model(x), x[:, :1])
        (loss / n).backward()
        running += loss.item()  # expect[lint]: host-sync-per-micro-batch
    mean_loss = running / n
    opt.step()
    opt.zero_grad()

trained = list(model.parameters())
