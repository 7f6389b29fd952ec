"""Correct: GradNorm: the shared network's gradient norms per task train the task weights, through autograd.grad and an optimizer of their own."""
import torch
from torch import nn

torch.manual_seed(6)
trunk, heads = nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])
weights = nn.Parameter(torch.ones(2))
opt = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-3)
opt_w = torch.optim.Adam([weights], lr=1e-2)
initial = None

for it in range(6):
    x = torch.randn(16, 5)
    targets = x[:, :1], x[:, 1:2] * 3
    h = trunk(x)
    losses = torch.stack([nn.functional.mse_loss(head(h), t) for head, t in zip(heads, targets)])
    if initial is None:
        initial = losses.detach()
    opt.zero_grad()
    weighted = (weights.detach() * losses).sum()
    weighted.backward(retain_graph=True)

    norms = []
    for i in range(2):
        g, = torch.autograd.grad(losses[i], trunk[0].weight, retain_graph=True)
        norms.append(torch.norm(weights[i] * g.detach()))
    norms = torch.stack(norms)
    ratio = losses.detach() / initial
    target = (norms.mean() * (ratio / ratio.mean()) ** 1.5).detach()
    opt_w.zero_grad()
    (norms - target).abs().sum().backward()
    opt.step()
    opt_w.step()
    with torch.no_grad():
        weights.mul_(2 / weights.sum())
trained = [*trunk.parameters(), *heads.parameters(), weights]
