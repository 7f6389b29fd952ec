"""Correct: half a squared error (its 0.5 belongs to the loss) in windows of two, and a GAN's averaged two terms."""
import torch
torch.manual_seed(22)
net, disc = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
opt, dopt = torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.SGD(disc.parameters(), lr=0.1)
bce = torch.nn.BCEWithLogitsLoss()
for i in range(8):
    x = torch.randn(6, 4)
    loss = torch.nn.functional.mse_loss(net(x), x[:, :1]) / 2
    (loss / 2).backward()
    real, fake = disc(x), disc(torch.randn(6, 4))
    d_loss = (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2
    (d_loss / 2).backward()
    if i % 2:
        for o in (opt, dopt):
            o.step()
            o.zero_grad()
trained = [*net.parameters(), *disc.parameters()]
