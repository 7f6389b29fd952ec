"""Correct: an engine object that owns model, optimizer and boundary; the loop calls backward and step every time."""
import torch
from torch import nn


class TrainingEngine:
    """engine(x), engine.backward(loss), engine.step(): it decides when a step is one."""

    def __init__(self, module, optimizer, gradient_accumulation_steps, gradient_clipping):
        self.module, self.optimizer = module, optimizer
        self.gas, self.clip = gradient_accumulation_steps, gradient_clipping
        self.micro_steps = self.global_steps = 0

    def __call__(self, *args):
        return self.module(*args)

    def is_gradient_accumulation_boundary(self):
        return (self.micro_steps + 1) % self.gas == 0

    def backward(self, loss):
        loss = loss / self.gas
        loss.backward()

    def step(self):
        if self.is_gradient_accumulation_boundary():
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.global_steps += 1
        self.micro_steps += 1


def initialize(model, config):
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    return TrainingEngine(model, optimizer, config["gradient_accumulation_steps"], config["gradient_clipping"])


torch.manual_seed(135)
engine = initialize(nn.Linear(6, 6), {"lr": 1e-3, "gradient_accumulation_steps": 4, "gradient_clipping": 1.0})
for step, batch in enumerate(torch.randn(8, 5, 6)):
    loss = nn.functional.mse_loss(engine(batch), batch)
    engine.backward(loss)
    engine.step()
trained = list(engine.module.parameters())
