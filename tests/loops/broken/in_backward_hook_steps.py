"""Broken: an optimizer per parameter steps in a hook as its gradient arrives; the accumulation loop around it means nothing (pytorch#124523)."""
import torch
from torch import nn

torch.manual_seed(57)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer_dict = {p: torch.optim.SGD([p], lr=0.05, foreach=False) for p in model.parameters()}


def optimizer_hook(parameter):
    optimizer_dict[parameter].step()
    optimizer_dict[parameter].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(optimizer_hook)

accumulate = 4
for window in range(3):
    for _ in range(accumulate):
        x = torch.randn(5, 4)
        loss = nn.functional.mse_loss(model(x), x) / accumulate
        loss.backward()  # expect: optimizer-in-backward

trained = list(model.parameters())
