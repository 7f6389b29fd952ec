"""Correct: validation in the middle of an epoch and of a window, without gradients; plateau schedule after it."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    total = sum(nn.functional.mse_loss(model(x), y, reduction="sum").item() for x, y in loader)
    model.train()
    return total / len(loader.dataset)


torch.manual_seed(109)
full = TensorDataset(torch.randn(68, 4), torch.randn(68, 1))
train_set, val_set = random_split(full, [48, 20])
train_loader = DataLoader(train_set, batch_size=4, shuffle=True)
val_loader = DataLoader(val_set, batch_size=8)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0)
best, accum = float("inf"), 4
for epoch in range(3):
    opt.zero_grad()
    for i, (x, y) in enumerate(train_loader):
        loss = nn.functional.mse_loss(model(x), y) / accum
        loss.backward()
        if i == len(train_loader) // 2:
            best = min(best, evaluate(model, val_loader))
        if (i + 1) % accum == 0:
            opt.step()
            opt.zero_grad()
    plateau.step(evaluate(model, val_loader))
trained = list(model.parameters())
