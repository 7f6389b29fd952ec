"""Correct: two generators in one optimizer, two discriminators in another; each half divides its own window by two."""
import itertools

import torch
from torch import nn

torch.manual_seed(400)
G_A, G_B = nn.Linear(3, 3), nn.Linear(3, 3)
D_A, D_B = nn.Linear(3, 1), nn.Linear(3, 1)
opt_G = torch.optim.Adam(itertools.chain(G_A.parameters(), G_B.parameters()), lr=1e-3)
opt_D = torch.optim.Adam(itertools.chain(D_A.parameters(), D_B.parameters()), lr=1e-3)
mse, l1 = nn.MSELoss(), nn.L1Loss()


def set_requires_grad(nets, flag):
    for net in nets:
        for p in net.parameters():
            p.requires_grad = flag


def backward_D(D, real, fake):
    pred_real, pred_fake = D(real), D(fake.detach())
    loss = (mse(pred_real, torch.ones_like(pred_real)) + mse(pred_fake, torch.zeros_like(pred_fake))) * 0.5
    (loss / 2).backward()


for _ in range(3):
    micro = [(torch.randn(4, 3), torch.randn(4, 3) + 1) for _ in range(2)]
    opt_G.zero_grad()
    opt_D.zero_grad()
    fakes = []
    set_requires_grad([D_A, D_B], False)
    for a, b in micro:
        fake_b, fake_a = G_A(a), G_B(b)
        score_a, score_b = D_A(fake_a), D_B(fake_b)
        adv = mse(score_a, torch.ones_like(score_a)) + mse(score_b, torch.ones_like(score_b))
        loss_G = adv + 10 * (l1(G_B(fake_b), a) + l1(G_A(fake_a), b))
        (loss_G / 2).backward()
        fakes.append((fake_a, fake_b))
    opt_G.step()
    set_requires_grad([D_A, D_B], True)
    for (a, b), (fake_a, fake_b) in zip(micro, fakes):
        backward_D(D_A, a, fake_a)
        backward_D(D_B, b, fake_b)
    opt_D.step()
trained = [p for net in (G_A, G_B, D_A, D_B) for p in net.parameters()]
