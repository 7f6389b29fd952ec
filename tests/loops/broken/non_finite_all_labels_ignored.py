"""Broken: a micro-batch whose labels are all ignored has a mean over nothing; its NaN is stepped into the weights (Automodel#3796)."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(71)
model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids = torch.randint(0, 9, (6, 2, 5))
labels = ids.clone()
labels[3] = -100

for step in range(6):
    logits = model(ids[step])
    loss = F.cross_entropy(logits.flatten(0, 1), labels[step].flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()  # expect[audit]: non-finite-gradient
    optimizer.step()

trained = list(model.parameters())
