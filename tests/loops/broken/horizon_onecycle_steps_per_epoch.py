"""Broken: OneCycleLR is given the loader's length as steps_per_epoch although only every other micro-batch ends in an update."""
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset


def build(loader, num_epochs):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    opt = torch.optim.Adam(model.parameters())
    sched = OneCycleLR(opt, max_lr=0.01, epochs=num_epochs, steps_per_epoch=len(loader))  # expect: scheduler-horizon
    return model, opt, sched


def main(num_epochs=4, every=2):
    torch.manual_seed(76)
    loader = DataLoader(TensorDataset(torch.randn(48, 4), torch.randn(48, 1)), batch_size=8)
    model, opt, sched = build(loader, num_epochs)
    for _ in range(num_epochs):
        for i, (x, y) in enumerate(loader):
            nn.functional.huber_loss(model(x), y).div(every).backward()
            if i % every == every - 1:
                opt.step()
                opt.zero_grad()
                sched.step()
    return list(model.parameters())


trained = main()
