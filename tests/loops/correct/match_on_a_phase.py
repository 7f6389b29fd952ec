"""Correct: the boundary is a case of a match over an enumeration, the configuration a dataclass."""
import torch
from torch import nn
from dataclasses import dataclass, field
from enum import Enum

torch.manual_seed(0)

class Phase(Enum):
    ACCUMULATE = "accumulate"
    UPDATE = "update"

@dataclass
class Config:
    lr: float = 0.05
    window: int = 2
    epochs: int = 2
    sizes: list[int] = field(default_factory=lambda: [6, 3])

cfg = Config()
model = nn.Linear(*cfg.sizes)
opt = torch.optim.SGD(model.parameters(), lr=cfg.lr)
xs = torch.randn(8, 4, 6)
ys = torch.randint(3, (8, 4))

def phase(i):
    return Phase.UPDATE if (i + 1) % cfg.window == 0 else Phase.ACCUMULATE

for _ in range(cfg.epochs):
    for i in range(len(xs)):
        loss = nn.functional.cross_entropy(model(xs[i]), ys[i])
        (loss / cfg.window).backward()
        match phase(i):
            case Phase.UPDATE if len(xs) > 0:
                opt.step()
                opt.zero_grad()
            case Phase() | None:
                pass
trained = list(model.parameters())
