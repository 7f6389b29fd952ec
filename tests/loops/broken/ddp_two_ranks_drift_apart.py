"""Broken: the flag that should let the last micro-batch reduce is computed one too early; two ranks drift apart (DeepSpeed PR#7985's symptom)."""
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def worker(rank, world_size, rendezvous, result):
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    torch.manual_seed(92)
    model = DDP(nn.Linear(3, 1))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(12, 2, 4, 3)[:, rank]
    n = 4
    for i, x in enumerate(data):
        model.require_backward_grad_sync = i % n == n  # was meant to be n - 1
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) / n
        loss.backward()
        if i % n == n - 1:
            opt.step()  # expect: unsynced-step
            opt.zero_grad()
    for shared, p in zip(result[rank], model.module.parameters()):
        shared.copy_(p.detach())
    dist.barrier()  # nobody hangs up while the other still listens
    dist.destroy_process_group()


if __name__ == "__main__":
    world_size = 2
    result = [[torch.zeros(1, 3).share_memory_(), torch.zeros(1).share_memory_()] for _ in range(world_size)]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(world_size, os.path.join(folder, "rendezvous"), result), nprocs=world_size)
    trained = [tensor for ranks in result for tensor in ranks]
