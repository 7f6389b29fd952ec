"""Correct: meta-learning; an inner step with create_graph, the outer loss accumulated over the tasks of a meta-batch."""
import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(101)
net = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1))
meta_opt = torch.optim.Adam(net.parameters(), lr=1e-2)
inner_lr, tasks_per_batch = 0.05, 3


def task():
    amplitude, phase = torch.rand(1) * 4 + 0.1, torch.rand(1) * 3
    xs = torch.rand(10, 1) * 10 - 5
    ys = amplitude * torch.sin(xs + phase)
    return (xs[:5], ys[:5]), (xs[5:], ys[5:])


for iteration in range(3):
    meta_opt.zero_grad()
    for _ in range(tasks_per_batch):
        (sx, sy), (qx, qy) = task()
        weights = dict(net.named_parameters())
        inner = nn.functional.mse_loss(functional_call(net, weights, (sx,)), sy)
        grads = torch.autograd.grad(inner, weights.values(), create_graph=True)
        fast = {k: w - inner_lr * g for (k, w), g in zip(weights.items(), grads)}
        outer = nn.functional.mse_loss(functional_call(net, fast, (qx,)), qy)
        (outer / tasks_per_batch).backward()
    meta_opt.step()

trained = list(net.parameters())
