"""Broken: optimizer and scheduler from a registry; the scheduler advances before the step."""
import torch
from torch import nn
torch.manual_seed(0)
OPTIMS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
def build(params, name="adamw", **kw):
    opt = OPTIMS[name](params, **kw)
    return opt, torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
net = nn.Linear(4, 2)
opt, sch = build(net.parameters(), "sgd", lr=0.1)
data = [(torch.randn(4, 4), torch.randint(2, (4,))) for _ in range(8)]
for idx, (x, y) in enumerate(data):
    loss = nn.functional.cross_entropy(net(x), y)
    (loss * 0.5).backward()
    if idx % 2 == 1:
        sch.step()  # expect: scheduler-before-step
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
