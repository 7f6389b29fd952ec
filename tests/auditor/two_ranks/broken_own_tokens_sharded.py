"""Broken: sharded, and each rank divides its sums by the tokens of its own window."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = torch.nn.Linear(3, 6)
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
torch.manual_seed(dist.get_rank())
for _ in range(3):
    lengths = (3, 9, 4) if dist.get_rank() == 0 else (12, 20, 11)
    window = [(torch.randn(2 * n, 3), torch.randint(0, 6, (2 * n,))) for n in lengths]
    num_tokens = sum(len(y) for _, y in window)
    for i, (x, y) in enumerate(window):
        model.set_requires_gradient_sync(i == 2)
        loss = cross_entropy(model(x), y, reduction="sum") / num_tokens
        loss.backward()  # expect: uneven-ranks
    optimizer.step()
    optimizer.zero_grad()
