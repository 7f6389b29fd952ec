"""Broken: a copy-paste slip zeroes the encoder's optimizer twice and the decoder's never."""
import torch
from torch import nn

torch.manual_seed(13)


class AutoEncoderTrainer:
    def __init__(self):
        self.encoder = nn.Linear(8, 3)
        self.decoder = nn.Linear(3, 8)
        self.enc_opt = torch.optim.Adam(self.encoder.parameters(), lr=1e-2)
        self.dec_opt = torch.optim.Adam(self.decoder.parameters(), lr=1e-2)

    def step(self, batch):
        self.enc_opt.zero_grad()
        self.enc_opt.zero_grad()
        out = self.decoder(torch.tanh(self.encoder(batch)))
        loss = nn.functional.mse_loss(out, batch)
        loss.backward()
        self.enc_opt.step()
        self.dec_opt.step()  # expect: stale-gradient
        return loss.detach()


t = AutoEncoderTrainer()
for batch in torch.randn(6, 4, 8):
    t.step(batch)
trained = [*t.encoder.parameters(), *t.decoder.parameters()]
