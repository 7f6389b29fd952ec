"""Correct: sums over the tokens of all ranks' windows, times the ranks that DDP divides by."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(3, 5))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(3):
    lengths = (3, 9, 4) if dist.get_rank() == 0 else (12, 20, 11)
    window = [(torch.randn(2, n, 3), torch.randint(0, 5, (2, n))) for n in lengths]
    num_tokens = torch.tensor(sum(y.numel() for _, y in window))
    dist.all_reduce(num_tokens)
    for i, (x, y) in enumerate(window):
        with nullcontext() if i == 2 else model.no_sync():
            loss = cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
            (loss * dist.get_world_size() / num_tokens.item()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
