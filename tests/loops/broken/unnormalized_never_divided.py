"""Broken: four mean losses are added and never divided: the gradient is four times the mean (HF-T#35207's kind)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(22)
STEPS = 4
loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,))), batch_size=4)
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

model.train()
for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        loss.backward()  # expect: unnormalized-loss
        if (i + 1) % STEPS == 0:
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.parameters())
