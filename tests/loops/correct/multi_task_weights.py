"""Correct: learned task weights are parameters of the loss itself and belong to the same optimizer."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class MultiTaskLoss(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.log_vars = nn.Parameter(torch.zeros(n))

    def forward(self, losses):
        return sum(torch.exp(-s) * l + s for s, l in zip(self.log_vars, losses))


torch.manual_seed(302)
body, seg, depth = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 1)
criterion = MultiTaskLoss(2)
everything = nn.ModuleList([body, seg, depth, criterion])
opt = torch.optim.Adam([{"params": [*body.parameters(), *seg.parameters(), *depth.parameters()]}, {"params": criterion.parameters(), "lr": 1e-2}], lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(36, 5), torch.randint(0, 2, (36,)), torch.randn(36, 1)), batch_size=4)
GA = 3
for i, (x, s, d) in enumerate(loader):
    h = body(x).relu()
    loss = criterion([nn.functional.cross_entropy(seg(h), s), nn.functional.mse_loss(depth(h), d)])
    (loss / GA).backward()
    if (i + 1) % GA == 0:
        opt.step()
        opt.zero_grad()
trained = list(everything.parameters())
