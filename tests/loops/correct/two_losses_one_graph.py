"""Correct: main and auxiliary loss share a trunk; two backwards a micro-batch, so the first must keep the graph."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(106)
trunk, head, aux_head = nn.Linear(6, 10), nn.Linear(10, 3), nn.Linear(10, 6)
modules = nn.ModuleList([trunk, head, aux_head])
opt = torch.optim.SGD(modules.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(36, 6), torch.randint(0, 3, (36,))), batch_size=6)
K, aux_weight = 3, 0.4

for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        h = torch.relu(trunk(x))
        main_loss = nn.functional.cross_entropy(head(h), y) / K
        aux_loss = aux_weight * nn.functional.mse_loss(aux_head(h), x) / K
        main_loss.backward(retain_graph=True)
        aux_loss.backward()
        if (i + 1) % K == 0:
            opt.step()
            opt.zero_grad()

trained = list(modules.parameters())
