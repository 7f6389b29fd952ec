"""Correct: pipeline order: every micro-batch goes forward first, then every loss backward, last one first."""
import torch
from torch import nn

torch.manual_seed(505)
stages = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)])
opt = torch.optim.SGD(stages.parameters(), lr=0.1)


def pipeline_forward(x):
    for stage in stages[:-1]:
        x = torch.tanh(stage(x))
    return stages[-1](x)


for step in range(3):
    batch, labels = torch.randn(12, 6), torch.randint(0, 2, (12,))
    chunks = list(zip(batch.chunk(4), labels.chunk(4)))
    losses = [nn.functional.cross_entropy(pipeline_forward(x), y) for x, y in chunks]
    for loss in reversed(losses):
        (loss / len(chunks)).backward()
    opt.step()
    opt.zero_grad()
trained = list(stages.parameters())
