"""Correct: two objectives take turns by update, each with a window of its own size and division, one optimizer."""
import torch

torch.manual_seed(26)
trunk = torch.nn.Linear(5, 8)
recon, pred = torch.nn.Linear(8, 5), torch.nn.Linear(8, 2)
opt = torch.optim.Adam([*trunk.parameters(), *recon.parameters(), *pred.parameters()], lr=1e-3)


def reconstruction(n):
    for _ in range(n):
        x = torch.randn(4, 5)
        loss = torch.nn.functional.mse_loss(recon(torch.relu(trunk(x))), x)
        (loss / n).backward()


def prediction(n):
    for _ in range(n):
        x = torch.randn(4, 5)
        loss = torch.nn.functional.cross_entropy(pred(torch.relu(trunk(x))), torch.randint(2, (4,)))
        (loss / n).backward()


for step in range(8):
    if step % 2 == 0:
        reconstruction(2)
    else:
        prediction(4)
    opt.step()
    opt.zero_grad()
trained = [*trunk.parameters(), *recon.parameters(), *pred.parameters()]
