"""Correct: torch.autograd.backward with a list of losses and their coefficients as gradient tensors."""
import torch
from torch import nn

torch.manual_seed(136)
model = nn.Linear(5, 4)
opt = torch.optim.RAdam(model.parameters(), lr=1e-2)
micro_batches = [[(torch.randn(n, 5), torch.randint(0, 4, (n,))) for n in (4, 2, 6)] for _ in range(3)]
for window in micro_batches:
    rows = sum(len(y) for _, y in window)
    losses = [nn.functional.cross_entropy(model(x), y) for x, y in window]
    torch.autograd.backward(losses, [torch.tensor(len(y) / rows) for _, y in window])
    opt.step()
    opt.zero_grad()
trained = list(model.parameters())
