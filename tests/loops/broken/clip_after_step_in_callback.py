"""Broken: gradients are clipped in on_step_end, which runs when the step is over."""
import torch
from torch import nn


class ClipCallback:
    def __init__(self, bound):
        self.bound = bound

    def on_step_end(self, model):
        nn.utils.clip_grad_norm_(model.parameters(), self.bound)  # expect: clip-after-step


class Fit:
    def __init__(self, model, callbacks):
        self.model, self.callbacks = model, callbacks
        self.opt = torch.optim.AdamW(model.parameters())

    def __call__(self, windows):
        for window in windows:
            self.opt.zero_grad()
            for x in window:
                (self.model(x).pow(2).mean() / len(window)).backward()
            self.opt.step()
            for cb in self.callbacks:
                cb.on_step_end(self.model)


torch.manual_seed(315)
model = nn.Linear(4, 4)
Fit(model, [ClipCallback(0.5)])(torch.randn(4, 2, 5, 4))
trained = list(model.parameters())
