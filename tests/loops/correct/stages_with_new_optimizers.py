"""Correct: three training stages, each with an optimizer of its own over the same model, windows of three, gradients cleared between."""
import torch
from torch import nn

torch.manual_seed(46)
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def run_stage(params, lr, num_updates, k=3):
    optimizer = torch.optim.AdamW(params, lr=lr)
    for update in range(num_updates):
        for _ in range(k):
            x = torch.randn(6, 5)
            loss = nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long())
            loss.div(k).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        net.zero_grad()


net[0].requires_grad_(False)
run_stage([p for p in net.parameters() if p.requires_grad], 1e-2, 3)
net.requires_grad_(True)
run_stage(list(net.parameters()), 1e-3, 3)
run_stage(list(net[2].parameters()) + list(net[0].parameters()), 1e-4, 2)
trained = list(net.parameters())
