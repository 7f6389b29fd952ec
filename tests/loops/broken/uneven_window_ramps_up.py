"""Broken: the number of accumulation steps ramps up during warm-up, the loss is divided by the final number all along."""
import torch
from torch import nn

torch.manual_seed(512)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
final = 4
held = 0
for ni in range(18):
    accumulate = 1 if ni < 2 else final
    x, y = torch.randn(6, 4), torch.randint(0, 2, (6,))
    loss = nn.functional.cross_entropy(model(x), y) / final
    loss.backward()  # expect: uneven-window-scale
    held += 1
    if held == accumulate:
        opt.step()
        opt.zero_grad()
        held = 0
trained = list(model.parameters())
