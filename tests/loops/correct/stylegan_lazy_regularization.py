"""Correct: StyleGAN2: phases with lazy R1 and path length every 4 and 2 updates, gradients of each phase over rounds of micro-batches."""
import torch
from torch import nn
from torch.nn.functional import softplus

torch.manual_seed(13)
G, D = nn.Sequential(nn.Linear(4, 12), nn.LeakyReLU(0.2), nn.Linear(12, 3)), nn.Sequential(nn.Linear(3, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
G_opt, D_opt = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.0, 0.99)), torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.0, 0.99))
batch_size, batch_gpu = 8, 4
pl_mean = torch.zeros(())
phases = [("Gmain", G, G_opt, 1), ("Greg", G, G_opt, 2), ("Dmain", D, D_opt, 1), ("Dreg", D, D_opt, 4)]


def accumulate_gradients(phase, real, z, gain):
    global pl_mean
    if phase == "Gmain":
        loss = softplus(-D(G(z)))
        loss.mean().mul(gain).backward()
    if phase == "Greg":
        z = z.detach().requires_grad_()
        img = G(z)
        noise = torch.randn_like(img) / 3 ** 0.5
        grads, = torch.autograd.grad([(img * noise).sum()], [z], create_graph=True, only_inputs=True)
        lengths = grads.square().sum(1).sqrt()
        mean = pl_mean.lerp(lengths.mean(), 0.01)
        pl_mean = mean.detach()
        penalty = (lengths - mean).square()
        (img[:, 0] * 0 + penalty * 2).mean().mul(gain).backward()
    if phase == "Dmain":
        with torch.no_grad():
            fake = G(z)
        softplus(D(fake)).mean().mul(gain).backward()
    if phase in ("Dmain", "Dreg"):
        tmp = real.detach().requires_grad_(phase == "Dreg")
        logits = D(tmp)
        loss_real = softplus(-logits) if phase == "Dmain" else 0
        loss_r1 = 0
        if phase == "Dreg":
            r1, = torch.autograd.grad([logits.sum()], [tmp], create_graph=True, only_inputs=True)
            loss_r1 = r1.square().sum(1) * 5
        (logits[:, 0] * 0 + (loss_real[:, 0] if phase == "Dmain" else 0) + loss_r1).mean().mul(gain).backward()


for batch_idx in range(5):
    real = torch.randn(batch_size, 3).split(batch_gpu)
    for name, module, opt, interval in phases:
        if batch_idx % interval != 0:
            continue
        z = torch.randn(batch_size, 4).split(batch_gpu)
        opt.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        (D if module is G else G).requires_grad_(False)
        for r, noise in zip(real, z):
            accumulate_gradients(name, r, noise, interval * batch_gpu / batch_size)
        module.requires_grad_(False)
        for param in module.parameters():
            if param.grad is not None:
                torch.nan_to_num(param.grad, nan=0, posinf=1e5, neginf=-1e5, out=param.grad)
        opt.step()
trained = [*G.parameters(), *D.parameters()]
