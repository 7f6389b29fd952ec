"""Correct: two gloo ranks, forward and backward under no_sync until the window's last micro-batch."""
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

ACCUM = 4


def run(rank, world_size, init_file, weights):
    dist.init_process_group("gloo", init_method="file://" + init_file, rank=rank, world_size=world_size)
    torch.manual_seed(124)
    dataset = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    sampler = DistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler)
    model = DDP(nn.Linear(4, 1))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def forward_backward(x, y):
        loss = nn.functional.mse_loss(model(x), y) / ACCUM
        loss.backward()

    for epoch in range(2):
        sampler.set_epoch(epoch)
        for i, (x, y) in enumerate(loader):
            if (i + 1) % ACCUM == 0:
                forward_backward(x, y)
                opt.step()
                opt.zero_grad()
            else:
                with model.no_sync():
                    forward_backward(x, y)
    for shared, p in zip(weights[rank], model.module.parameters()):
        shared.copy_(p.detach())
    dist.barrier()  # nobody hangs up while the other still listens
    dist.destroy_process_group()


def main():
    weights = [[torch.zeros(1, 4).share_memory_(), torch.zeros(1).share_memory_()] for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(2, os.path.join(folder, "init"), weights), nprocs=2, join=True)
    assert all(torch.equal(a, b) for a, b in zip(*weights))
    return [t for rank_weights in weights for t in rank_weights]


if __name__ == "__main__":
    trained = main()
