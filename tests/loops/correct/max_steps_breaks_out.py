"""Correct: max_steps is reached at a boundary and breaks out of both loops; while-True over epochs."""
import torch
torch.manual_seed(18)
net = torch.nn.Linear(4, 2)
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
max_steps, steps, micro, done = 5, 0, 0, False
while not done:
    for x in torch.randn(6, 4, 4):
        loss = torch.nn.functional.cross_entropy(net(x), torch.randint(2, (4,)))
        (loss / 4).backward()
        micro += 1
        if micro % 4:
            continue
        opt.step()
        opt.zero_grad(set_to_none=True)
        steps += 1
        if steps >= max_steps:
            done = True
            break
trained = list(net.parameters())
