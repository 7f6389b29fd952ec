"""Correct: each task's gradient is read out of .grad and zeroed away on purpose, then a combination is put back."""
import torch
from torch import nn

torch.manual_seed(103)
trunk = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
heads = nn.ModuleDict({"depth": nn.Linear(8, 1), "edges": nn.Linear(8, 1)})
opt = torch.optim.SGD(list(trunk.parameters()) + list(heads.parameters()), lr=0.02)

for step in range(5):
    x = torch.randn(8, 5)
    features = trunk(x)
    collected = {}
    for k, name in enumerate(heads):
        trunk.zero_grad()
        loss = nn.functional.l1_loss(heads[name](features), x[:, k : k + 1])
        loss.backward(retain_graph=k < len(heads) - 1)
        collected[name] = [p.grad.clone() for p in trunk.parameters()]
    norms = {name: torch.stack([g.norm() for g in gs]).norm() for name, gs in collected.items()}
    mean_norm = sum(norms.values()) / len(norms)
    for p, *grads in zip(trunk.parameters(), *collected.values()):
        p.grad = sum(g * (mean_norm / n) for g, n in zip(grads, norms.values()))
    opt.step()
    opt.zero_grad()

trained = [*trunk.parameters(), *heads.parameters()]
