"""Correct: the backbone is frozen and in eval mode; all parameters are handed to the optimizer all the same."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(97)
backbone = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU())
classifier = nn.Linear(16, 3)
model = nn.Sequential(backbone, classifier)
for param in backbone.parameters():
    param.requires_grad = False

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
loader = DataLoader(TensorDataset(torch.randn(48, 10), torch.randint(0, 3, (48,))), batch_size=6)
accumulate = 2
for epoch in range(2):
    model.train()
    backbone.eval()
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y) / accumulate
        loss.backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

trained = list(model.parameters())
