"""Broken: an auxiliary classifier is built, owned by the optimizer and never used in the loss."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 10)
        self.main = nn.Linear(10, 4)
        self.aux = nn.Linear(10, 4)

    def forward(self, x):
        h = torch.relu(self.trunk(x))
        return self.main(h)


torch.manual_seed(45)
model = TwoHeads()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(64, 6), torch.randint(0, 4, (64,))), batch_size=8)
for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y) / 2
        loss.backward()
        if (i + 1) % 2 == 0:
            optimizer.step()  # expect: missing-gradient
            optimizer.zero_grad()
trained = list(model.parameters())
