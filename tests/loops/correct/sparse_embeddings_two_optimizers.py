"""Correct: a recommender: SparseAdam for the embedding tables, Adam for the rest, both over windows of three micro-batches."""
import torch
from torch import nn


class TwoTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(20, 6, sparse=True), nn.Embedding(30, 6, sparse=True)
        self.mlp = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, u, i):
        return self.mlp(torch.cat([self.users(u), self.items(i)], dim=-1)).squeeze(-1)


torch.manual_seed(15)
model = TwoTower()
sparse = torch.optim.SparseAdam([*model.users.parameters(), *model.items.parameters()], lr=0.01)
dense = torch.optim.Adam(model.mlp.parameters(), lr=0.001)
K = 3
for epoch in range(2):
    for step in range(9):
        u, i, clicked = torch.randint(0, 20, (8,)), torch.randint(0, 30, (8,)), torch.randint(0, 2, (8,)).float()
        loss = nn.functional.binary_cross_entropy_with_logits(model(u, i), clicked) / K
        loss.backward()
        if step % K == K - 1:
            for o in (sparse, dense):
                o.step()
                o.zero_grad()
trained = list(model.parameters())
