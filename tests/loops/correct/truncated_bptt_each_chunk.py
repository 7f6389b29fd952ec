"""Correct: truncated backpropagation through time, the hidden state detached, an update per chunk."""
import torch
from torch import nn

torch.manual_seed(93)
seq = torch.sin(torch.linspace(0, 12, 81)).view(1, -1, 1)
rnn, fc = nn.GRU(1, 6, batch_first=True), nn.Linear(6, 1)
params = list(rnn.parameters()) + list(fc.parameters())
opt = torch.optim.Adam(params, lr=1e-2)
bptt = 10

for epoch in range(2):
    hidden = None
    for start in range(0, 80, bptt):
        x, y = seq[:, start : start + bptt], seq[:, start + 1 : start + bptt + 1]
        if hidden is not None:
            hidden = hidden.detach()
        out, hidden = rnn(x, hidden)
        loss = nn.functional.mse_loss(fc(out), y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 0.5)
        opt.step()

trained = params
