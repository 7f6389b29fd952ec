"""Broken: the validation pass calls backward by copy and paste; its gradients enter the next update."""
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(35)
net = torch.nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
train = DataLoader(TensorDataset(torch.randn(24, 4), torch.randint(2, (24,))), batch_size=4)
valid = DataLoader(TensorDataset(torch.randn(12, 4), torch.randint(2, (12,))), batch_size=4)
crit = torch.nn.CrossEntropyLoss()
for epoch in range(3):
    for x, y in train:
        loss = crit(net(x), y)
        loss.backward()
        opt.step()  # expect: leaked-tail, dropped-tail
        opt.zero_grad()
    for x, y in valid:
        loss = crit(net(x), y)
        loss.backward()
trained = list(net.parameters())
