"""Correct: adversarial training, the attack by autograd.grad on the input alone, clean and attacked loss in one backward."""
import torch
from torch import nn

torch.manual_seed(115)
model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = nn.CrossEntropyLoss()
eps = 0.05


def fgsm(x, y):
    x = x.clone().requires_grad_(True)
    grad = torch.autograd.grad(loss_fn(model(x), y), x)[0]
    return (x + eps * grad.sign()).detach()


for _ in range(5):
    x, y = torch.randn(10, 8), torch.randint(0, 2, (10,))
    x_adv = fgsm(x, y)
    optimizer.zero_grad()
    loss = 0.5 * loss_fn(model(x), y) + 0.5 * loss_fn(model(x_adv), y)
    loss.backward()
    optimizer.step()
trained = list(model.parameters())
