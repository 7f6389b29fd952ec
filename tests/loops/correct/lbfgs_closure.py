"""Correct: L-BFGS calls its closure many times a step; the closure zeroes, then sums over all micro-batches."""
import torch
from torch import nn

torch.manual_seed(37)
X = torch.randn(30, 4, dtype=torch.double)
Y = torch.sin(X.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.8, max_iter=5, history_size=4)
criterion = nn.MSELoss()
chunks = list(zip(X.chunk(3), Y.chunk(3)))

for i in range(3):

    def closure():
        optimizer.zero_grad()
        total = 0.0
        for xb, yb in chunks:
            loss = criterion(model(xb), yb) / len(chunks)
            loss.backward()
            total += loss.detach()
        return total

    optimizer.step(closure)

trained = list(model.parameters())
