"""Broken: a fixed feature network for the loss still requires gradients: time and memory spent, and they only grow."""
import torch
from torch import nn


class PerceptualLoss(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net.eval()

    def forward(self, a, b):
        return nn.functional.l1_loss(self.net(a), self.net(b))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x - self.body(x)


torch.manual_seed(44)
percep = PerceptualLoss(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)))
model = Denoiser()
opt = torch.optim.Adam(model.parameters(), 1e-3)
for it in range(6):
    clean = torch.rand(2, 1, 8, 8)
    noisy = clean + 0.1 * torch.randn_like(clean)
    loss = percep(model(noisy), clean)
    opt.zero_grad()
    loss.backward()  # expect: unowned-gradient
    opt.step()
trained = list(model.parameters())
