"""Correct: WGAN-GP: five critic updates to one of the generator, each over two micro-batches, `one` and `mone` as backward's gradients."""
import torch
from torch import autograd, nn

torch.manual_seed(14)
netG, netD = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
optimizerD, optimizerG = (torch.optim.Adam(n.parameters(), lr=1e-4, betas=(0.5, 0.9)) for n in (netD, netG))
CRITIC_ITERS, LAMBDA, MICRO = 5, 0.1, 2
one = torch.tensor(1.0 / MICRO)
mone = one * -1


def calc_gradient_penalty(netD, real, fake):
    alpha = torch.rand(len(real), 1)
    interpolates = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    out = netD(interpolates)
    gradients = autograd.grad(outputs=out, inputs=interpolates, grad_outputs=torch.ones(out.size()),
                              create_graph=True, retain_graph=True, only_inputs=True)[0]
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


for iteration in range(3):
    for p in netD.parameters():
        p.requires_grad = True
    for iter_d in range(CRITIC_ITERS):
        netD.zero_grad()
        for _ in range(MICRO):
            real = torch.randn(8, 2)
            D_real = netD(real).mean()
            D_real.backward(mone)
            with torch.no_grad():
                noise = torch.randn(8, 2)
            fake = netG(noise).detach()
            D_fake = netD(fake).mean()
            D_fake.backward(one)
            gradient_penalty = calc_gradient_penalty(netD, real, fake)
            gradient_penalty.backward(one)
        optimizerD.step()
    for p in netD.parameters():
        p.requires_grad = False
    netG.zero_grad()
    for _ in range(MICRO):
        G = netD(netG(torch.randn(8, 2))).mean()
        G.backward(mone)
    optimizerG.step()
trained = [*netG.parameters(), *netD.parameters()]
