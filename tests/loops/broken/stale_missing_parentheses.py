"""Broken: `optimizer.zero_grad` without the call does nothing; the windows pile up on each other."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(12)
ACCUM_STEPS = 4
loader = DataLoader(TensorDataset(torch.randn(64, 10), torch.randint(0, 2, (64,))), batch_size=8)
clf = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2))
optimizer = torch.optim.AdamW(clf.parameters(), lr=5e-4)

for epoch in range(2):
    for idx, (feats, lab) in enumerate(loader):
        loss = nn.functional.cross_entropy(clf(feats), lab) / ACCUM_STEPS
        loss.backward()
        if (idx + 1) % ACCUM_STEPS == 0:
            optimizer.step()  # expect: stale-gradient
            optimizer.zero_grad

trained = list(clf.parameters())
