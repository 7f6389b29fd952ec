"""Correct: DDPM training with accumulation through an iterator, EMA by hand per update."""
import copy
import torch
from torch import nn
import torch.nn.functional as F


def cycle(dl):
    while True:
        for data in dl:
            yield data


class EMA:
    def __init__(self, beta):
        self.beta = beta

    def update_model_average(self, ma_model, current_model):
        for current_params, ma_params in zip(current_model.parameters(), ma_model.parameters()):
            old_weight, up_weight = ma_params.data, current_params.data
            ma_params.data = self.update_average(old_weight, up_weight)

    def update_average(self, old, new):
        if old is None:
            return new
        return old * self.beta + (1 - self.beta) * new


class Denoiser(nn.Module):
    def __init__(self, dim=8, T=20):
        super().__init__()
        self.time = nn.Embedding(T, 16)
        self.net = nn.Sequential(nn.Linear(dim + 16, 32), nn.SiLU(), nn.Linear(32, dim))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.time(t)], dim=1))


class DiffusionTrainer:
    def __init__(self, model, data, train_num_steps=5, gradient_accumulate_every=2, ema_decay=0.95, step_start_ema=2, update_ema_every=2):
        self.model = model
        self.ema = EMA(ema_decay)
        self.ema_model = copy.deepcopy(model)
        self.step = 0
        self.train_num_steps = train_num_steps
        self.gradient_accumulate_every = gradient_accumulate_every
        self.step_start_ema, self.update_ema_every = step_start_ema, update_ema_every
        self.dl = cycle(torch.utils.data.DataLoader(data, batch_size=6, shuffle=True))
        self.opt = torch.optim.Adam(model.parameters(), lr=2e-3)
        betas = torch.linspace(1e-3, 0.2, 20)
        self.alpha_bar = torch.cumprod(1 - betas, 0)

    def p_losses(self, x):
        t = torch.randint(20, (x.size(0),))
        noise = torch.randn_like(x)
        ab = self.alpha_bar[t].unsqueeze(1)
        return F.l1_loss(self.model(ab.sqrt() * x + (1 - ab).sqrt() * noise, t), noise)

    def step_ema(self):
        if self.step < self.step_start_ema:
            self.ema_model.load_state_dict(self.model.state_dict())
            return
        self.ema.update_model_average(self.ema_model, self.model)

    def train(self):
        while self.step < self.train_num_steps:
            for i in range(self.gradient_accumulate_every):
                loss = self.p_losses(next(self.dl))
                (loss / self.gradient_accumulate_every).backward()
            self.opt.step()
            self.opt.zero_grad()
            if self.step % self.update_ema_every == 0:
                self.step_ema()
            self.step += 1


torch.manual_seed(6)
trainer = DiffusionTrainer(Denoiser(), torch.randn(30, 8))
trainer.train()
trained = list(trainer.model.parameters())
