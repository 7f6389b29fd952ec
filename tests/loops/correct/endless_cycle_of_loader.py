"""Correct: an endless generator over a loader, windows by count; epochs end inside windows and nobody minds."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def cycle(dl):
    while True:
        for data in dl:
            yield data


class DiffusionTrainer:
    def __init__(self, denoiser, dataset, *, train_batch_size=4, gradient_accumulate_every=3, train_num_steps=5):
        self.model = denoiser
        self.opt = torch.optim.Adam(denoiser.parameters(), lr=8e-3, betas=(0.9, 0.99))
        self.dl = cycle(DataLoader(dataset, batch_size=train_batch_size, shuffle=True))
        self.gradient_accumulate_every = gradient_accumulate_every
        self.train_num_steps = train_num_steps
        self.step = 0

    def p_losses(self, x):
        noise = torch.randn_like(x)
        return nn.functional.mse_loss(self.model(x + noise), noise)

    def train(self):
        while self.step < self.train_num_steps:
            total_loss = 0.0
            for _ in range(self.gradient_accumulate_every):
                (data,) = next(self.dl)
                loss = self.p_losses(data)
                loss = loss / self.gradient_accumulate_every
                total_loss += loss.item()
                loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.opt.step()
            self.opt.zero_grad()
            self.step += 1


torch.manual_seed(132)
trainer = DiffusionTrainer(nn.Sequential(nn.Linear(3, 9), nn.SiLU(), nn.Linear(9, 3)), TensorDataset(torch.randn(16, 3)))
trainer.train()
trained = list(trainer.model.parameters())
