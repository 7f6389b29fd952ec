"""Broken: the whole window, last micro-batch included, runs under no_sync, so ranks never exchange gradients."""
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


class Loop:
    def __init__(self, model, k):
        self.model, self.k = model, k
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def window(self, micro_batches):
        with self.model.no_sync():
            for x in micro_batches:
                loss = nn.functional.mse_loss(self.model(x), x) / self.k
                loss.backward()
        self.optimizer.step()  # expect: unsynced-step
        self.optimizer.zero_grad()


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
try:
    torch.manual_seed(91)
    loop = Loop(DDP(nn.Linear(4, 4)), k=3)
    for batches in torch.randn(4, 3, 6, 4):
        loop.window(batches)
    trained = list(loop.model.module.parameters())
finally:
    dist.destroy_process_group()
