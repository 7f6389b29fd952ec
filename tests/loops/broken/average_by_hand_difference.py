"""Broken: pytorch_ema style: s.sub_((1 - decay) * (s - p)) in the training loop of micro-batches."""
import torch
torch.manual_seed(5)
net = torch.nn.Linear(4, 2)
shadow_params = [p.clone().detach() for p in net.parameters()]
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(12):
    (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 4).backward()
    if (step + 1) % 4 == 0:
        opt.step()
        opt.zero_grad()
    with torch.no_grad():
        for s_param, param in zip(shadow_params, net.parameters()):
            tmp = s_param - param
            tmp.mul_(1.0 - 0.99)
            s_param.sub_(tmp)  # expect[audit]: average-per-micro-batch
trained = list(net.parameters())
