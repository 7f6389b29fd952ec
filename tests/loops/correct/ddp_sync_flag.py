"""Correct: DDP's require_backward_grad_sync set as a plain flag, which saves a with-statement."""
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def get_batch():
    x = torch.randint(0, 10, (3, 6))
    return x, (x + 1) % 10


def train(max_iters, gradient_accumulation_steps):
    torch.manual_seed(127)
    raw_model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 10))
    model = DDP(raw_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    X, Y = get_batch()
    iter_num = 0
    while True:
        for micro_step in range(gradient_accumulation_steps):
            model.require_backward_grad_sync = micro_step == gradient_accumulation_steps - 1
            logits = model(X)
            loss = nn.functional.cross_entropy(logits.view(-1, 10), Y.view(-1)) / gradient_accumulation_steps
            X, Y = get_batch()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        iter_num += 1
        if iter_num >= max_iters:
            break
    return list(raw_model.parameters())


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
trained = train(max_iters=3, gradient_accumulation_steps=4)
dist.destroy_process_group()
