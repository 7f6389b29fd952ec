"""Correct: layers thaw one by one and join the optimizer as new groups while training goes on."""
import torch
from torch import nn

torch.manual_seed(98)
layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)])
layers[:2].requires_grad_(False)
optimizer = torch.optim.AdamW(layers[2].parameters(), lr=1e-2)


def forward(x):
    for layer in layers[:-1]:
        x = torch.relu(layer(x))
    return layers[-1](x)


def thaw(layer, lr):
    layer.requires_grad_(True)
    optimizer.add_param_group({"params": layer.parameters(), "lr": lr})


for epoch in range(3):
    if epoch > 0:
        thaw(layers[2 - epoch], lr=1e-2 / 3**epoch)
    for _ in range(3):
        for _ in range(2):
            x = torch.randn(6, 4)
            target = (x.sum(1) > 0).long()
            (nn.functional.cross_entropy(forward(x), target) * 0.5).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

trained = list(layers.parameters())
