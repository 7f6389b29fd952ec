"""Correct: triplets are drawn before, so the margin loss is a mean over them and accumulates like any other."""
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Triplets(Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(7)
        self.anchor = torch.randn(n, 5, generator=g)
        self.positive = self.anchor + 0.1 * torch.randn(n, 5, generator=g)
        self.negative = torch.randn(n, 5, generator=g)

    def __len__(self):
        return len(self.anchor)

    def __getitem__(self, i):
        return self.anchor[i], self.positive[i], self.negative[i]


torch.manual_seed(104)
embedder = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
criterion = nn.TripletMarginLoss(margin=0.5)
optimizer = torch.optim.Adagrad(embedder.parameters(), lr=0.02)
loader = DataLoader(Triplets(48), batch_size=8)
accum = 2
for epoch in range(2):
    for step, (a, p, n) in enumerate(loader, 1):
        triplet_loss = criterion(embedder(a), embedder(p), embedder(n))
        triplet_loss.div(accum).backward()
        if step % accum == 0:
            optimizer.step()
            optimizer.zero_grad()
trained = list(embedder.parameters())
