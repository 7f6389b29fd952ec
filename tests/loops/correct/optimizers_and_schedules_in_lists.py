"""Correct: lists of optimizers and schedulers, each list walked by itself."""
import torch
from torch import nn


def build(nets):
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in nets]
    return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 2) for optimizer in optimizers]


def run(nets, optimizers, schedulers, stream, accumulate, only=None):
    for number, x in enumerate(stream, 1):
        hidden = x
        for net in nets:
            hidden = net(hidden).tanh()
        (hidden.square().mean() / accumulate).backward()
        if number % accumulate:
            continue
        for index, (optimizer, scheduler) in enumerate(zip(optimizers, schedulers)):
            if only is not None and index != only:
                continue
            optimizer.step()
            scheduler.step()
        for index, optimizer in enumerate(optimizers):
            if only is not None and index != only:
                continue
            optimizer.zero_grad()


torch.manual_seed(0)
nets = [nn.Linear(3, 4), nn.Linear(4, 2)]
run(nets, *build(nets), torch.randn(12, 5, 3), accumulate=4)
trained = [parameter for net in nets for parameter in net.parameters()]
