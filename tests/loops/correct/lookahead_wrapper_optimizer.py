"""Correct: a Lookahead optimizer that wraps another; slow weights move every fifth update."""
import torch
from torch import nn


class Lookahead(torch.optim.Optimizer):
    def __init__(self, base, k=5, alpha=0.5):
        self.base, self.k, self.alpha = base, k, alpha
        super().__init__(base.param_groups, dict(base.defaults))
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.base.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for group, slow in zip(self.param_groups, self.slow):
                for p, s in zip(group["params"], slow):
                    s += self.alpha * (p - s)
                    p.copy_(s)
        return loss


torch.manual_seed(306)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = Lookahead(torch.optim.Adam(model.parameters(), lr=1e-2), k=3)
for update in range(7):
    for _ in range(2):
        x = torch.randn(5, 4)
        loss = nn.functional.smooth_l1_loss(model(x), x.amax(1, keepdim=True)) / 2
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
trained = list(model.parameters())
