"""Correct: an optimizer in a wrapper that counts, scales and knows how long the run is."""
import contextlib
import torch
from torch import nn
torch.manual_seed(0)
class OptimWrapper:
    def __init__(self, optimizer, accumulative_counts=1, clip_grad=None):
        self.optimizer = optimizer
        self._counts = accumulative_counts
        self.clip_kwargs = clip_grad
        self._inner = 0
        self._max_counts = -1
        self._remainder = -1
    def update_params(self, loss):
        loss = self.scale_loss(loss)
        self.backward(loss)
        if self.should_update():
            self.step()
            self.zero_grad()
    def backward(self, loss):
        loss.backward()
        self._inner += 1
    def zero_grad(self):
        self.optimizer.zero_grad()
    def step(self):
        if self.clip_kwargs:
            self._clip()
        self.optimizer.step()
    def _clip(self):
        params = [p for g in self.optimizer.param_groups for p in g["params"] if p.requires_grad and p.grad is not None]
        if params:
            nn.utils.clip_grad_norm_(params, **self.clip_kwargs)
    def should_update(self):
        return self._inner % self._counts == 0 or self._inner == self._max_counts
    def scale_loss(self, loss):
        if self._counts == 1:
            factor = 1
        elif self._max_counts == -1 or self._inner < self._max_counts - self._remainder:
            factor = self._counts
        else:
            factor = self._remainder
        return loss / factor
    def initialize_count_status(self, max_counts):
        self._max_counts = max_counts
        self._remainder = max_counts % self._counts
    @contextlib.contextmanager
    def optim_context(self, model):
        if not self.should_update() and hasattr(model, "no_sync"):
            with model.no_sync():
                yield
        else:
            yield
model = nn.Linear(4, 1)
wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=3, clip_grad={"max_norm": 1.0})
data = [torch.randn(4, 4) for _ in range(9)]
wrapper.initialize_count_status(18)
for _ in range(2):
    for x in data:
        with wrapper.optim_context(model):
            loss = model(x).square().mean()
        wrapper.update_params(loss)
trained = list(model.parameters())
