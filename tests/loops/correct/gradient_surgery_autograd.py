"""Correct: conflicting task gradients are projected on each other's normal plane before they are summed into .grad."""
import torch
from torch import nn

torch.manual_seed(102)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head_a = nn.Linear(8, 1)
        self.head_b = nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.head_a(h), self.head_b(h)


def flatten(grads):
    return torch.cat([g.reshape(-1) for g in grads])


def pcgrad(grads):
    out = [g.clone() for g in grads]
    for i, gi in enumerate(out):
        for j, gj in enumerate(grads):
            dot = gi @ gj
            if i != j and dot < 0:
                gi -= dot / gj.dot(gj) * gj
    return torch.stack(out).sum(0)


model = Shared()
params = list(model.parameters())
opt = torch.optim.SGD(params, lr=0.05)
for _ in range(6):
    x = torch.randn(10, 6)
    a, b = model(x)
    losses = [nn.functional.mse_loss(a, x[:, :1]), nn.functional.mse_loss(b, -x[:, :1])]
    task_grads = [flatten(torch.autograd.grad(l, params, retain_graph=True, materialize_grads=True)) for l in losses]
    merged = pcgrad(task_grads)
    offset = 0
    for p in params:
        p.grad = merged[offset : offset + p.numel()].view_as(p).clone()
        offset += p.numel()
    opt.step()
    opt.zero_grad()

trained = params
