"""Correct: everything in helpers that call each other; the loop itself never says backward or step."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_loader():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=g)
    return DataLoader(TensorDataset(x, x[:, :2] ** 2), batch_size=8)


def compute_loss(model, batch, divisor):
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets) / divisor


def accumulate(model, batch, divisor):
    loss = compute_loss(model, batch, divisor)
    loss.backward()
    return loss.detach() * divisor


def update(optimizer, scheduler):
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()


def is_boundary(index, steps, total):
    return (index + 1) % steps == 0 or index + 1 == total


def train_one_epoch(model, loader, optimizer, scheduler, steps):
    losses = []
    for index, batch in enumerate(loader):
        losses.append(accumulate(model, batch, steps))
        if is_boundary(index, steps, len(loader)):
            update(optimizer, scheduler)
    return torch.stack(losses).mean()


def main():
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
    optimizer = torch.optim.Adam(model.parameters())
    loader = make_loader()
    num_epochs, steps = 2, 4
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs * len(loader) // steps)
    for _ in range(num_epochs):
        train_one_epoch(model, loader, optimizer, scheduler, steps)
    return list(model.parameters())


if __name__ == "__main__":
    trained = main()
