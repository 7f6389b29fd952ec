"""Correct: torch.func: grad_and_value over functional_call, micro-batch gradients averaged in a dictionary, handed to an ordinary optimizer."""
import torch
from torch import nn
from torch.func import functional_call, grad_and_value

torch.manual_seed(24)
net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)


def loss_fn(params, x, y):
    return nn.functional.mse_loss(functional_call(net, params, (x,)), y)


for step in range(4):
    params = {k: v.detach() for k, v in net.named_parameters()}
    total = {k: torch.zeros_like(v) for k, v in params.items()}
    for _ in range(3):
        x = torch.randn(4, 5)
        grads, value = grad_and_value(loss_fn)(params, x, x.sum(1, keepdim=True))
        for k, g in grads.items():
            total[k] += g / 3
    for k, p in net.named_parameters():
        p.grad = total[k]
    optimizer.step()
    optimizer.zero_grad()
trained = list(net.parameters())
