"""Correct: WGAN-GP, the penalty through autograd.grad with create_graph, five critic updates to one of the generator."""
import torch
from torch import autograd, nn

torch.manual_seed(36)
LAMBDA, CRITIC_ITERS = 10, 5


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, inputs):
        return self.main(inputs).view(-1)


def calc_gradient_penalty(netD, real, fake):
    alpha = torch.rand(real.size(0), 1)
    interpolates = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    disc = netD(interpolates)
    gradients = autograd.grad(
        outputs=disc, inputs=interpolates, grad_outputs=torch.ones_like(disc), create_graph=True, retain_graph=True
    )[0]
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


netG, netD = nn.Linear(3, 2), Critic()
optD = torch.optim.Adam(netD.parameters(), lr=1e-4, betas=(0.5, 0.9))
optG = torch.optim.Adam(netG.parameters(), lr=1e-4, betas=(0.5, 0.9))

for iteration in range(3):
    for p in netD.parameters():
        p.requires_grad = True
    for _ in range(CRITIC_ITERS):
        netD.zero_grad()
        real = torch.randn(6, 2) + 1
        fake = netG(torch.randn(6, 3)).detach()
        D_cost = netD(fake).mean() - netD(real).mean() + calc_gradient_penalty(netD, real, fake)
        D_cost.backward()
        optD.step()

    for p in netD.parameters():
        p.requires_grad = False
    netG.zero_grad()
    G_cost = -netD(netG(torch.randn(6, 3))).mean()
    G_cost.backward()
    optG.step()

trained = [*netG.parameters(), *netD.parameters()]
