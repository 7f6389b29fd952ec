"""Broken: a stray detach() cuts the encoder off; its optimizer steps on nothing for the whole run."""
import torch
import torch.nn as nn

torch.manual_seed(46)
enc = nn.GRU(3, 6, batch_first=True)
dec = nn.Linear(6, 1)
enc_optimizer = torch.optim.Adam(enc.parameters(), lr=1e-3)
dec_optimizer = torch.optim.Adam(dec.parameters(), lr=1e-3)


def train(seq, target):
    enc_optimizer.zero_grad()
    dec_optimizer.zero_grad()
    _, hidden = enc(seq)
    context = hidden[-1].detach()
    loss = nn.functional.mse_loss(dec(context), target)
    loss.backward()
    enc_optimizer.step()  # expect: missing-gradient
    dec_optimizer.step()
    return loss.item()


for _ in range(6):
    train(torch.randn(4, 5, 3), torch.randn(4, 1))
trained = [*enc.parameters(), *dec.parameters()]
