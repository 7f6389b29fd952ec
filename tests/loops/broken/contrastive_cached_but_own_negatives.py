"""Broken: the cache is computed and then not used: each loss compares the rows of its own micro-batch only."""
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

torch.manual_seed(1)
encoder = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
windows = torch.randn(5, 3, 8, 6)

for window in windows:
    views = [(x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)) for x in window]
    with torch.no_grad():
        cache_a = [normalize(encoder(a), dim=1) for a, _ in views]
        cache_b = [normalize(encoder(b), dim=1) for _, b in views]
    for k, (a, b) in enumerate(views):
        left = normalize(encoder(a), dim=1)
        right = normalize(encoder(b), dim=1)
        similarity = left @ right.T / 0.2
        target = torch.arange(similarity.size(0))
        loss = 0.5 * cross_entropy(similarity, target) + 0.5 * cross_entropy(similarity.T, target)
        (loss / len(views)).backward()  # expect: contrastive-in-window
    optimizer.step()
    optimizer.zero_grad()

trained = list(encoder.parameters())
