"""Correct: one optimizer per parameter, fused into backward to save memory; there is no accumulation to break."""
import torch
from torch import nn

torch.manual_seed(111)
model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
fused = {p: torch.optim.AdamW([p], lr=1e-3) for p in model.parameters()}


def step_and_free(p):
    fused[p].step()
    p.grad = None


handles = [p.register_post_accumulate_grad_hook(step_and_free) for p in model.parameters()]
for batch in torch.randn(6, 8, 6):
    nn.functional.mse_loss(model(batch), batch).backward()
for h in handles:
    h.remove()
trained = list(model.parameters())
