"""Correct: the attack calls backward for the input's gradient; what it leaves in the weights is zeroed away on purpose."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(117)
model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def perturb(data, target, epsilon=0.1):
    data = data.detach().clone()
    data.requires_grad = True
    attack_loss = F.cross_entropy(model(data), target)
    attack_loss.backward()
    return (data + epsilon * data.grad.sign()).detach()


for it in range(5):
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    x = perturb(x, y)
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
trained = list(model.parameters())
