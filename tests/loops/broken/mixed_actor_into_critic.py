"""Broken: an agent zeroes each network after its own step, so the critic's next step includes the actor's loss."""
import copy

import torch
from torch import nn


class DDPGAgent:
    def __init__(self, obs=3, act=1):
        self.pi = nn.Sequential(nn.Linear(obs, 8), nn.ReLU(), nn.Linear(8, act), nn.Tanh())
        self.q = nn.Sequential(nn.Linear(obs + act, 8), nn.ReLU(), nn.Linear(8, 1))
        self.q_targ = copy.deepcopy(self.q).requires_grad_(False)
        self.pi_opt = torch.optim.Adam(self.pi.parameters(), lr=1e-3)
        self.q_opt = torch.optim.Adam(self.q.parameters(), lr=1e-3)

    def update(self, o, a, r, o2):
        with torch.no_grad():
            backup = r + 0.9 * self.q_targ(torch.cat([o2, self.pi(o2)], -1))
        loss_q = (self.q(torch.cat([o, a], -1)) - backup).pow(2).mean()
        loss_q.backward()
        self.q_opt.step()  # expect: mixed-optimizer-gradients
        self.q_opt.zero_grad()

        loss_pi = -self.q(torch.cat([o, self.pi(o)], -1)).mean()
        loss_pi.backward()
        self.pi_opt.step()
        self.pi_opt.zero_grad()


torch.manual_seed(42)
agent = DDPGAgent()
for _ in range(5):
    agent.update(torch.randn(6, 3), torch.rand(6, 1), torch.randn(6, 1), torch.randn(6, 3))
trained = [*agent.pi.parameters(), *agent.q.parameters()]
