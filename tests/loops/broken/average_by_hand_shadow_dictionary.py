"""Broken: the widespread EMA class with new tensors in a dict, called per micro-batch."""
import torch
torch.manual_seed(4)


class EMA:
    def __init__(self, model, decay):
        self.model, self.decay = model, decay
        self.shadow = {n: p.data.clone() for n, p in model.named_parameters()}

    def update(self):
        for name, param in self.model.named_parameters():
            new_average = (1.0 - self.decay) * param.data + self.decay * self.shadow[name]  # expect[audit]: average-per-micro-batch
            self.shadow[name] = new_average.clone()


net = torch.nn.Linear(4, 2)
ema = EMA(net, 0.999)
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(12):
    (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 4).backward()
    if (step + 1) % 4 == 0:
        opt.step()
        opt.zero_grad()
    ema.update()
trained = list(net.parameters())
