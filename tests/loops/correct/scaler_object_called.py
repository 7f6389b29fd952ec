"""Correct: a scaler object that is called like a function and steps when told to, as image-model trainers have it."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class NativeScaler:
    def __init__(self):
        self._scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    def __call__(self, loss, optimizer, clip_grad=None, parameters=None, create_graph=False, need_update=True):
        self._scaler.scale(loss).backward(create_graph=create_graph)
        if need_update:
            if clip_grad is not None:
                assert parameters is not None
                self._scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
            self._scaler.step(optimizer)
            self._scaler.update()


def train_one_epoch(model, loader, optimizer, loss_fn, loss_scaler, accum_steps):
    last_accum_steps = len(loader) % accum_steps
    last_batch_idx_to_accum = len(loader) - last_accum_steps
    optimizer.zero_grad()
    for batch_idx, (input, target) in enumerate(loader):
        last_batch = batch_idx == len(loader) - 1
        need_update = last_batch or (batch_idx + 1) % accum_steps == 0
        if batch_idx >= last_batch_idx_to_accum:
            accum_steps = last_accum_steps
        with torch.autocast("cpu", dtype=torch.float16):
            output = model(input)
            loss = loss_fn(output, target)
        if accum_steps > 1:
            loss /= accum_steps
        loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters(), need_update=need_update)
        if need_update:
            optimizer.zero_grad()


torch.manual_seed(30)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
loader = DataLoader(TensorDataset(torch.randn(72, 8), torch.randint(0, 4, (72,))), batch_size=8)  # 4, 4, 1
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = NativeScaler()
for epoch in range(2):
    train_one_epoch(model, loader, optimizer, nn.CrossEntropyLoss(), scaler, accum_steps=4)
trained = list(model.parameters())
