"""Broken (speed): DistributedDataParallel without no_sync all-reduces in each of the window's four backwards (ClassyVision PR#706)."""
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def setup():
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def main():
    setup()
    torch.manual_seed(89)
    ds = TensorDataset(torch.randn(64, 6), torch.randn(64, 1))
    loader = DataLoader(ds, batch_size=4, sampler=DistributedSampler(ds))
    model = DDP(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, (x, y) in enumerate(loader):
        loss = nn.functional.mse_loss(model(x), y) / 4
        loss.backward()  # expect: needless-all-reduce
        if (step + 1) % 4 == 0:
            opt.step()
            opt.zero_grad()
    dist.destroy_process_group()
    return list(model.module.parameters())


trained = main()
