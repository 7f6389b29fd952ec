"""Correct: weight decay added to the gradients by hand in the last micro-batch; weights are read in every one for logs."""
import torch
torch.manual_seed(7)
net = torch.nn.Linear(6, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
log = []
for i in range(12):
    loss = torch.nn.functional.cross_entropy(net(torch.randn(4, 6)), torch.randint(2, (4,))) / 3
    loss.backward()
    with torch.no_grad():
        log.append(sum((p.data * 1.0).norm() ** 2 for p in net.parameters()))
    if (i + 1) % 3 == 0:
        for p in net.parameters():
            p.grad.add_(p.data, alpha=5e-4)
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
