"""Correct: torch.func only: gradients of a stacked ensemble by vmap(grad), updated by hand, .grad is never used."""
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

torch.manual_seed(509)
models = [nn.Linear(3, 1) for _ in range(4)]
params, buffers = stack_module_state(models)
params = {k: v.detach() for k, v in params.items()}
base = nn.Linear(3, 1).to("meta")


def loss_fn(p, b, x, y):
    return nn.functional.mse_loss(functional_call(base, (p, b), (x,)), y)


for _ in range(5):
    x = torch.randn(8, 3)
    grads = vmap(grad(loss_fn), in_dims=(0, 0, None, None))(params, buffers, x, x.sum(1, keepdim=True))
    params = {k: p - 0.1 * grads[k] for k, p in params.items()}
trained = list(params.values())
