"""Correct: updates by torch.func.grad_and_value with plain tensors; no .grad, no optimizer."""
import torch
from torch.func import functional_call, grad_and_value

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
params = {k: v.detach().clone() for k, v in net.named_parameters()}


def loss_fn(p, x, y):
    return torch.nn.functional.mse_loss(functional_call(net, p, (x,)), y)


step_fn = grad_and_value(loss_fn)
for epoch in range(3):
    acc = {k: torch.zeros_like(v) for k, v in params.items()}
    for m in range(4):
        x = torch.randn(6, 3)
        g, value = step_fn(params, x, x.sum(1, keepdim=True))
        for k in acc:
            acc[k] += g[k] / 4
    params = {k: v - 0.1 * acc[k] for k, v in params.items()}
trained = list(params.values())
