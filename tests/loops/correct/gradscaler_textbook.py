"""Correct: float16 autocast with accumulation as the PyTorch recipes order it: unscale, clip, step, update, zero."""
import torch
from torch import nn

torch.manual_seed(31)
device = "cpu"
iters_to_accumulate = 2
max_norm = 0.5
model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scaler = torch.amp.GradScaler(device, init_scale=128.0, growth_interval=2)
loss_fn = nn.MSELoss()
data = [torch.randn(4, 10, device=device) for _ in range(8)]
targets = [torch.randn(4, 10, device=device) for _ in range(8)]

for epoch in range(2):
    for i, (input, target) in enumerate(zip(data, targets)):
        with torch.autocast(device_type=device, dtype=torch.float16):
            output = model(input)
            loss = loss_fn(output, target)
            loss = loss / iters_to_accumulate
        scaler.scale(loss).backward()
        if (i + 1) % iters_to_accumulate == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

trained = list(model.parameters())
