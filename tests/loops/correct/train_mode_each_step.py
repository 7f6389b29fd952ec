"""Correct: training_step() sets train mode each time, inputs are dicts, loss comes in an output object; windows of two."""
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Toy(Dataset):
    def __init__(self, n):
        self.n = n
        self.x = torch.randn(n, 5)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"inputs": self.x[i], "labels": int(self.x[i].sum() > 0)}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(5, 2)

    def forward(self, inputs, labels):
        logits = self.score(inputs)
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


class BaseTrainer:
    def __init__(self, model, args):
        self.model, self.args = model, args
        self.optimizer = None

    def create_optimizer(self):
        if self.optimizer is None:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.args.lr)
        return self.optimizer

    def training_step(self, batch):
        self.model.train()
        output = self.model(**batch)
        loss = output.loss / self.args.gas
        loss.backward()
        return loss.detach()

    def train(self, loader):
        self.create_optimizer()
        self.model.zero_grad()
        tr_loss = torch.tensor(0.0)
        for epoch in range(self.args.epochs):
            steps_in_epoch = len(loader)
            for step, batch in enumerate(loader):
                tr_loss += self.training_step(batch)
                if (step + 1) % self.args.gas == 0 or (steps_in_epoch <= self.args.gas and (step + 1) == steps_in_epoch):
                    self.optimizer.step()
                    self.model.zero_grad()


torch.manual_seed(404)
trainer = BaseTrainer(Model(), SimpleNamespace(lr=0.1, gas=2, epochs=2))
trainer.train(DataLoader(Toy(32), batch_size=4, shuffle=True))
trained = list(trainer.model.parameters())
