"""Broken (memory): a helper keeps every graph in case somebody needs it; its caller never runs a second backward."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def do_backward(loss, keep=True):
    loss.backward(retain_graph=keep)  # expect: retained-graph


def main():
    torch.manual_seed(86)
    model = nn.Linear(4, 4)
    optim = torch.optim.SGD(model.parameters(), lr=0.02)
    loader = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(0, 4, (32,))), batch_size=4)
    losses = []
    for k, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y)
        do_backward(loss / 2)
        losses.append(loss)
        if k % 2 == 1:
            optim.step()
            optim.zero_grad()
    return list(model.parameters())


trained = main()
