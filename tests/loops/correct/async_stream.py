"""Correct: micro-batches come from an asynchronous generator."""
import asyncio
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
async def batches(n):
    for _ in range(n):
        await asyncio.sleep(0)
        yield torch.randn(4, 3)
async def train(every=2):
    i = 0
    async for x in batches(8):
        (net(x).square().mean() / every).backward()
        i += 1
        if i % every == 0:
            opt.step()
            opt.zero_grad()
asyncio.run(train())
trained = list(net.parameters())
