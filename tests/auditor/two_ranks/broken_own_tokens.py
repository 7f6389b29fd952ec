"""Broken: each rank divides its sums by the tokens of its own window; the counts are never added up over the ranks."""

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
    num_tokens = sum(y.ne(-100).sum() for _, y in window)
    for i, (x, y) in enumerate(window):
        model.require_backward_grad_sync = i == 2
        loss = cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
        (loss / num_tokens).backward()  # expect: uneven-ranks
    optimizer.step()
    optimizer.zero_grad()
