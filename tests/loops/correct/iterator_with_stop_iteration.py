"""Correct: two loaders side by side, the shorter restarted on StopIteration, a semi-supervised window of two."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(300)
labelled = DataLoader(TensorDataset(torch.randn(16, 6), torch.randint(0, 3, (16,))), batch_size=4, shuffle=True)
unlabelled = DataLoader(TensorDataset(torch.randn(48, 6)), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
labelled_iter = iter(labelled)
eval_step, lambda_u, mu = 6, 0.5, 2

for batch_idx in range(eval_step):
    optimizer.zero_grad()
    for _ in range(mu):
        try:
            x, y = next(labelled_iter)
        except StopIteration:
            labelled_iter = iter(labelled)
            x, y = next(labelled_iter)
        (u,) = next(iter(unlabelled))
        with torch.no_grad():
            pseudo = model(u).argmax(-1)
        lx = nn.functional.cross_entropy(model(x), y)
        lu = nn.functional.cross_entropy(model(u + 0.1 * torch.randn_like(u)), pseudo)
        loss = (lx + lambda_u * lu) / mu
        loss.backward()
    optimizer.step()
trained = list(model.parameters())
