"""Broken: with a scaler the step runs for each micro-batch and only the zeroing is per window."""
import torch
torch.manual_seed(10)
net = torch.nn.Linear(6, 3)
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
ga_steps = 4
for i, (x, y) in enumerate(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 6), torch.randint(3, (32,))), batch_size=2)):
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(net(x), y)
    loss = loss / ga_steps
    scaler.scale(loss).backward()
    scaler.step(opt)  # expect: stale-gradient
    scaler.update()
    if (i + 1) % ga_steps == 0:
        opt.zero_grad()
trained = list(net.parameters())
