"""Correct: the half of a squared error is the loss's own and may be reported, as in soft actor-critic."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Critics:
    def __init__(self):
        self.q1, self.q2 = nn.Linear(5, 1), nn.Linear(5, 1)
        self.opt1 = torch.optim.Adam(self.q1.parameters(), lr=1e-3)
        self.opt2 = torch.optim.Adam(self.q2.parameters(), lr=1e-3)
        self.record = []

    def update(self, batch):
        state, target = batch
        loss1 = 0.5 * F.mse_loss(target, self.q1(state).flatten())
        loss2 = 0.5 * F.mse_loss(target, self.q2(state).flatten())
        self.record.append(float(loss1))
        self.opt1.zero_grad()
        loss1.backward()
        self.opt1.step()
        self.opt2.zero_grad()
        loss2.backward()
        self.opt2.step()


critics = Critics()
for _ in range(5):
    critics.update((torch.randn(8, 5), torch.randn(8)))
trained = [*critics.q1.parameters(), *critics.q2.parameters()]
