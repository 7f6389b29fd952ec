"""Correct: the EMA class with a shadow dict (new_average.clone()), updated after each optimizer step, applied for eval."""
import torch
torch.manual_seed(5)


class EMA:
    def __init__(self, model, decay):
        self.model, self.decay, self.shadow, self.backup = model, decay, {}, {}

    def register(self):
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                self.shadow[name] = param.data.clone()

    def update(self):
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                new_average = (1.0 - self.decay) * param.data + self.decay * self.shadow[name]
                self.shadow[name] = new_average.clone()

    def apply_shadow(self):
        for name, param in self.model.named_parameters():
            self.backup[name] = param.data
            param.data = self.shadow[name]

    def restore(self):
        for name, param in self.model.named_parameters():
            param.data = self.backup[name]
        self.backup = {}


model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
ema = EMA(model, 0.9)
ema.register()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    model.train()
    for i in range(8):
        loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 4)), torch.randint(2, (4,))) / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            opt.step()
            opt.zero_grad()
            ema.update()
    model.eval()
    ema.apply_shadow()
    with torch.no_grad():
        model(torch.randn(8, 4))
    ema.restore()
trained = list(model.parameters())
