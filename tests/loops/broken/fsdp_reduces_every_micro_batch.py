"""Broken (speed): FSDP2 reduce-scatters in every backward of the window, since nobody turns it off (cosmos-framework PR#162)."""
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def train(model, optimizer, windows, accumulation):
    for window in windows:
        for x in window:
            loss = nn.functional.l1_loss(model(x), x) / accumulation
            loss.backward()  # expect: needless-all-reduce
        optimizer.step()
        optimizer.zero_grad()


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(147)
model = fully_shard(nn.Linear(5, 5), mesh=init_device_mesh("cpu", (1,)))
train(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(3, 4, 6, 5), accumulation=4)
trained = [p.full_tensor().detach() for p in model.parameters()]
dist.destroy_process_group()
