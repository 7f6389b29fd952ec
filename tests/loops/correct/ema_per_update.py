"""Correct: the moving average follows each update, not each micro-batch."""
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(95)
unet = nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 6))
ema_model = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.9))
opt = torch.optim.AdamW(unet.parameters(), lr=1e-3)
dl = DataLoader(TensorDataset(torch.randn(48, 6)), batch_size=4)
gradient_accumulate_every = 3

step = 0
for epoch in range(2):
    for i, (clean,) in enumerate(dl):
        noise = torch.randn_like(clean)
        t = torch.rand(len(clean), 1)
        loss = nn.functional.mse_loss(unet(clean * (1 - t) + noise * t), noise)
        loss = loss / gradient_accumulate_every
        loss.backward()
        if (i + 1) % gradient_accumulate_every == 0:
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
            ema_model.update_parameters(unet)
            step += 1

trained = [*unet.parameters(), *ema_model.module.parameters()]
