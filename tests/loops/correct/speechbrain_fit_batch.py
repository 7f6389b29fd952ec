"""Correct: SpeechBrain's Brain: fit_batch asks should_step, non-finite losses are counted and left out, several optimizers by name."""
import contextlib

import torch
from torch import nn


class Brain:
    def __init__(self, modules, opt_class, grad_accumulation_factor):
        self.modules, self.grad_accumulation_factor = nn.ModuleDict(modules), grad_accumulation_factor
        self.step, self.optimizer_step, self.nonfinite_count = 0, 0, 0
        self.optimizers_dict = {"opt": opt_class(self.modules.parameters())}

    @contextlib.contextmanager
    def no_sync(self, use=True):
        yield

    def compute_forward(self, batch):
        return self.modules["decoder"](torch.relu(self.modules["encoder"](batch[0])))

    def compute_objectives(self, predictions, batch):
        return nn.functional.l1_loss(predictions, batch[1])

    def fit_batch(self, batch):
        should_step = (self.step % self.grad_accumulation_factor) == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            outputs = self.compute_forward(batch)
            loss = self.compute_objectives(outputs, batch)
            scaled_loss = loss / self.grad_accumulation_factor
            self.check_loss_isfinite(scaled_loss)
            scaled_loss.backward()
        if should_step:
            self.optimizers_step()
        return loss.detach().cpu()

    def on_fit_batch_start(self, batch, should_step):
        pass

    def check_loss_isfinite(self, loss):
        if not torch.isfinite(loss):
            self.nonfinite_count += 1

    def optimizers_step(self):
        valid = {k: o for k, o in self.optimizers_dict.items()}
        for opt in valid.values():
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
            opt.step()
        for opt in valid.values():
            opt.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def fit(self, epochs, train_set):
        for epoch in epochs:
            self.modules.train()
            for batch in train_set:
                self.step += 1
                self.fit_batch(batch)
            self.step = 0


torch.manual_seed(26)
brain = Brain({"encoder": nn.Linear(7, 9), "decoder": nn.Linear(9, 7)}, lambda p: torch.optim.NAdam(p, lr=1e-3), 2)
train_set = [(x, x) for x in torch.randn(6, 5, 7)]
brain.fit(range(2), train_set)
trained = list(brain.modules.parameters())
