"""Broken: the moving average is updated with every micro-batch, so three of four updates average the same weights (F5-TTS#631)."""
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(79)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randn(64, 1)), batch_size=4)
grad_accum = 4

for i, (x, y) in enumerate(loader):
    loss = nn.functional.mse_loss(model(x), y)
    (loss / grad_accum).backward()
    if (i + 1) % grad_accum == 0:
        opt.step()
        opt.zero_grad()
    ema.update_parameters(model)  # expect: average-per-micro-batch

trained = [*model.parameters(), *ema.module.parameters()]
