"""Broken: clipping follows the step, so it bounds a gradient that was already used."""
import torch
from torch import nn

torch.manual_seed(63)
rnn = nn.LSTM(4, 8, batch_first=True)
out = nn.Linear(8, 4)
params = list(rnn.parameters()) + list(out.parameters())
optimizer = torch.optim.SGD(params, lr=0.5)
for seq in torch.randn(6, 3, 7, 4):
    optimizer.zero_grad()
    h, _ = rnn(seq[:, :-1])
    loss = nn.functional.mse_loss(out(h), seq[:, 1:])
    loss.backward()
    optimizer.step()
    nn.utils.clip_grad_norm_(params, 0.25)  # expect: clip-after-step
trained = params
