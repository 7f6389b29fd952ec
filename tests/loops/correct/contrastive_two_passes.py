"""Correct: a contrastive loss over the whole batch from cached representations, then a replay of each chunk."""
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(105)
query_tower = nn.Sequential(nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 4))
doc_tower = nn.Sequential(nn.Linear(9, 10), nn.Tanh(), nn.Linear(10, 4))
optimizer = torch.optim.AdamW([*query_tower.parameters(), *doc_tower.parameters()], lr=1e-3)
chunk = 4


def represent(tower, x):
    with torch.no_grad():
        return torch.cat([tower(part) for part in x.split(chunk)])


def replay(tower, x, gradient):
    for part, g in zip(x.split(chunk), gradient.split(chunk)):
        surrogate = torch.dot(tower(part).flatten(), g.flatten())
        surrogate.backward()


for _ in range(3):
    q, d = torch.randn(16, 7), torch.randn(16, 9)
    q_rep = represent(query_tower, q).requires_grad_()
    d_rep = represent(doc_tower, d).requires_grad_()
    scores = F.normalize(q_rep, dim=1) @ F.normalize(d_rep, dim=1).T / 0.1
    F.cross_entropy(scores, torch.arange(len(q))).backward()
    replay(query_tower, q, q_rep.grad)
    replay(doc_tower, d, d_rep.grad)
    optimizer.step()
    optimizer.zero_grad()

trained = [*query_tower.parameters(), *doc_tower.parameters()]
