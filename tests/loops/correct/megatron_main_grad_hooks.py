"""Correct: Megatron's main_grad: a hook moves each gradient into a float32 buffer and frees `.grad`; the optimizer gets the buffers back at the step."""
import torch
from torch import nn

torch.manual_seed(11)
model = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)).to(torch.bfloat16)
main_params = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
opt = torch.optim.Adam(main_params, lr=1e-3)
num_microbatches = 4


def make_hook(param):
    def hook(*unused):
        if param.grad is not None:
            param.main_grad.add_(param.grad.data)
        param.grad = None
    return hook


for p in model.parameters():
    p.main_grad = torch.zeros_like(p, dtype=torch.float32)
    p.register_post_accumulate_grad_hook(make_hook(p))


def forward_backward_no_pipelining(data_iterator):
    total = torch.zeros(())
    for _ in range(num_microbatches):
        x = next(data_iterator)
        output = model(x)
        loss = (output.float() - x.float()).square().mean() / num_microbatches
        total += loss.detach()
        loss.backward()
    return total


def train_step(data_iterator):
    for p in model.parameters():
        p.main_grad.zero_()
    loss = forward_backward_no_pipelining(data_iterator)
    for master, p in zip(main_params, model.parameters()):
        master.grad = p.main_grad
    nn.utils.clip_grad_norm_(main_params, 1.0)
    opt.step()
    with torch.no_grad():
        for master, p in zip(main_params, model.parameters()):
            p.copy_(master)
    return loss


data = iter([torch.randn(3, 6, dtype=torch.bfloat16) for _ in range(16)])
for iteration in range(4):
    train_step(data)
trained = main_params
