"""Correct: an optimizer wrapped in a class that sets the rate itself, as transformer tutorials have it; tied embeddings."""
import torch
from torch import nn


class ScheduledOptim:
    def __init__(self, optimizer, d_model, n_warmup_steps):
        self._optimizer = optimizer
        self.init_lr = d_model**-0.5
        self.n_warmup_steps = n_warmup_steps
        self.n_steps = 0

    def step_and_update_lr(self):
        self._update_learning_rate()
        self._optimizer.step()

    def zero_grad(self):
        self._optimizer.zero_grad()

    def _update_learning_rate(self):
        self.n_steps += 1
        lr = self.init_lr * min(self.n_steps**-0.5, self.n_steps * self.n_warmup_steps**-1.5)
        for param_group in self._optimizer.param_groups:
            param_group["lr"] = lr


class TiedLM(nn.Module):
    def __init__(self, vocab=14, d=8):
        super().__init__()
        self.embed = nn.Embedding(vocab, d)
        self.mix = nn.Linear(d, d)
        self.unembed = nn.Linear(d, vocab, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, ids):
        return self.unembed(torch.tanh(self.mix(self.embed(ids))))


torch.manual_seed(131)
model = TiedLM()
optimizer = ScheduledOptim(torch.optim.Adam(model.parameters(), betas=(0.9, 0.98)), 8, n_warmup_steps=3)
update_freq = 2
text = torch.randint(0, 14, (12, 3, 7))
for i, ids in enumerate(text):
    if i % update_freq == 0:
        optimizer.zero_grad()
    logits = model(ids[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    (loss / update_freq).backward()
    if i % update_freq == update_freq - 1:
        optimizer.step_and_update_lr()
trained = list(model.parameters())
