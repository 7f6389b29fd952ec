"""Broken: the last micro-batch of a window holds 2 samples, the others 8, and each mean counts the same."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(52)
ds = TensorDataset(torch.randn(26, 5), torch.randn(26, 1))
dl = DataLoader(ds, batch_size=8)  # 8, 8, 8, 2
model = nn.Linear(5, 1)
sgd = torch.optim.SGD(model.parameters(), lr=0.1)


def one_pass():
    sgd.zero_grad()
    for x, y in dl:
        loss = nn.functional.mse_loss(model(x), y) / len(dl)
        loss.backward()  # expect: mean-of-means
    sgd.step()


for _ in range(3):
    one_pass()
trained = list(model.parameters())
