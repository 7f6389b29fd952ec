"""Broken (known limit): a small convolutional net with BatchNorm2d accumulated in a trainer class (ultralytics/yolov5#1630)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def conv_block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = conv_block(1, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def fit(model, loader, accumulate):
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    ni = 0
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        loss = loss / accumulate
        loss.backward()  # expect: batch-norm-in-window
        ni += 1
        if ni % accumulate == 0:
            opt.step()
            opt.zero_grad()


torch.manual_seed(84)
net = Classifier()
fit(net, DataLoader(TensorDataset(torch.randn(24, 1, 6, 6), torch.randint(0, 3, (24,))), batch_size=4), accumulate=2)
trained = list(net.parameters())
