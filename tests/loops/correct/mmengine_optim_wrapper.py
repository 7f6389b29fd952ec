"""Correct: MMEngine's OptimWrapper: update_params scales by the window's own size, the remainder at the end included."""
import torch
from torch import nn


class OptimWrapper:
    def __init__(self, optimizer, accumulative_counts=1, clip_grad=None):
        self.optimizer = optimizer
        self._accumulative_counts = accumulative_counts
        self._inner_count = 0
        self._max_counts = -1
        self._remainder_counts = -1
        self.clip_grad_kwargs = clip_grad

    def initialize_count_status(self, cur_iter, max_iters):
        self._inner_count, self._max_counts = cur_iter, max_iters
        self._remainder_counts = max_iters % self._accumulative_counts

    def scale_loss(self, loss):
        if self._accumulative_counts == 1:
            loss_factor = 1
        elif self._max_counts == -1:
            loss_factor = self._accumulative_counts
        elif self._inner_count < self._max_counts - self._remainder_counts:
            loss_factor = self._accumulative_counts
        else:
            loss_factor = self._remainder_counts
        return loss / loss_factor

    def should_update(self):
        return self._inner_count % self._accumulative_counts == 0 or self._inner_count == self._max_counts

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        loss = self.scale_loss(loss)
        self.backward(loss)
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss, **kwargs):
        loss.backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        if self.clip_grad_kwargs:
            params = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(params, **self.clip_grad_kwargs)
        self.optimizer.step(**kwargs)

    def zero_grad(self, **kwargs):
        self.optimizer.zero_grad(**kwargs)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.cls, self.reg = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def train_step(self, data, optim_wrapper):
        f = torch.relu(self.backbone(data["inputs"]))
        losses = dict(
            loss_cls=nn.functional.cross_entropy(self.cls(f), data["labels"]),
            loss_bbox=nn.functional.smooth_l1_loss(self.reg(f), data["boxes"]),
        )
        parsed, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(parsed)
        return log_vars

    def parse_losses(self, losses):
        log_vars = [[name, value.mean()] for name, value in losses.items()]
        loss = sum(value for key, value in log_vars if "loss" in key)
        log_vars.insert(0, ["loss", loss])
        return loss, dict(log_vars)


torch.manual_seed(7)
model = Detector()
wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), 4, dict(max_norm=35))
max_iters = 10
wrapper.initialize_count_status(0, max_iters)
for _ in range(max_iters):
    batch = dict(inputs=torch.randn(6, 8), labels=torch.randint(0, 3, (6,)), boxes=torch.randn(6, 4))
    model.train_step(batch, wrapper)
trained = list(model.parameters())
