"""Correct: a Trainer class with fit, callbacks, early stopping and a checkpoint dict."""
import copy
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad = patience, float("inf"), 0

    def __call__(self, value):
        if value < self.best - 1e-6:
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        return self.bad >= self.patience


class Trainer:
    def __init__(self, model, optim, loss_fn, accumulate=4, clip=None, scheduler=None):
        self.model = model
        self.optim = optim
        self.loss_fn = loss_fn
        self.accumulate = accumulate
        self.clip = clip
        self.scheduler = scheduler
        self.best_state = None
        self.global_step = 0

    def fit(self, train_loader, valid_loader, epochs):
        stopper = EarlyStopping(patience=2)
        for epoch in range(epochs):
            train_loss = self._train_epoch(train_loader)
            val_loss = self._eval_epoch(valid_loader)
            if val_loss <= stopper.best:
                self.best_state = copy.deepcopy(self.model.state_dict())
            if stopper(val_loss):
                break
        self.model.load_state_dict(self.best_state)

    def _train_epoch(self, loader):
        self.model.train()
        total, seen = 0.0, 0
        n = len(loader)
        self.optim.zero_grad()
        for i, (x, y) in enumerate(loader):
            # the tail has fewer micro-batches
            start = (i // self.accumulate) * self.accumulate
            group = min(self.accumulate, n - start)
            loss = self.loss_fn(self.model(x), y)
            (loss / group).backward()
            total += loss.item() * len(x)
            seen += len(x)
            if (i + 1) % self.accumulate == 0 or i + 1 == n:
                self._apply()
        return total / seen

    def _apply(self):
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optim.step()
        self.optim.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()
        self.global_step += 1

    @torch.inference_mode()
    def _eval_epoch(self, loader):
        self.model.eval()
        losses = [self.loss_fn(self.model(x), y) for x, y in loader]
        return torch.stack(losses).mean().item()


torch.manual_seed(5)
X = torch.randn(96, 6)
Y = (X[:, :1] * 2 - X[:, 1:2]).tanh()
train, valid = random_split(TensorDataset(X, Y), [80, 16])
net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 1))
opt = torch.optim.AdamW(net.parameters(), lr=5e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=3 * 3)
trainer = Trainer(net, opt, nn.MSELoss(), accumulate=4, clip=1.0, scheduler=sched)
trainer.fit(DataLoader(train, batch_size=8, shuffle=True), DataLoader(valid, batch_size=8), epochs=3)
trained = list(net.parameters())
