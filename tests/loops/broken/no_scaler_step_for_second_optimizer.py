"""Broken: one of two optimizers goes through the scaler, the other, added later, steps by itself."""
import torch
from torch import nn


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(4, 8)
        self.dec = nn.Linear(8, 4)

    def forward(self, x):
        return self.dec(torch.tanh(self.enc(x)))


torch.manual_seed(68)
model = Seq2Seq()
optimizers = {"enc": torch.optim.Adam(model.enc.parameters(), 1e-3), "dec": torch.optim.Adam(model.dec.parameters(), 1e-3)}
scaler = torch.amp.GradScaler("cpu", init_scale=32.0)
for it in range(4):
    for o in optimizers.values():
        o.zero_grad()
    for _ in range(2):
        x = torch.randn(5, 4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.l1_loss(model(x), x) / 2
        scaler.scale(loss).backward()
    scaler.step(optimizers["enc"])
    optimizers["dec"].step()  # expect: step-without-scaler
    scaler.update()
trained = list(model.parameters())
