"""Correct: checkpointed blocks with batch normalisation, a forward hook that counts, and a chunked loss inside a checkpoint."""
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.register_buffer("num_forwards", torch.zeros(()))

    def forward(self, x):
        self.num_forwards += 1
        return torch.relu(self.norm(self.linear(x)))


torch.manual_seed(0)
blocks, head = nn.ModuleList(Block(6) for _ in range(2)), nn.Linear(6, 3)
optimizer = torch.optim.SGD([*blocks.parameters(), *head.parameters()], lr=0.1)
for step in range(6):
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    loss = checkpoint(lambda h, t: cross_entropy(head(h), t), x, y, use_reentrant=False)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
trained = [*blocks.parameters(), *head.parameters(), *blocks.buffers()]
