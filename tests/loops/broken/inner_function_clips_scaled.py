"""Broken: an inner function clips while the factor of the gradient scaler is still in the gradient."""
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(4, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
def run(data, k):
    def clip():
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)  # expect: clip-scaled-gradient
    for i, x in enumerate(data, start=1):
        with torch.autocast("cpu"):
            loss = net(x).float().square().mean() / k
        scaler.scale(loss).backward()
        if i % k:
            continue
        clip()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
run(torch.randn(8, 4, 4), 2)
trained = list(net.parameters())
