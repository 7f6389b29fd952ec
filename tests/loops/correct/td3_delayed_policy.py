"""Correct: TD3 (CleanRL): two critics in one optimizer, the actor every second update; its loss leaves gradients in the critics, zeroed before their next."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(40)


class QNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 16), nn.Linear(16, 1)

    def forward(self, x, a):
        return self.fc2(F.relu(self.fc1(torch.cat([x, a], 1))))


actor = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh())
qf1, qf2 = QNetwork(), QNetwork()
qf1_target, qf2_target, target_actor = (copy.deepcopy(m) for m in (qf1, qf2, actor))
q_optimizer = torch.optim.Adam(list(qf1.parameters()) + list(qf2.parameters()), lr=3e-4)
actor_optimizer = torch.optim.Adam(list(actor.parameters()), lr=3e-4)
tau, policy_frequency = 0.005, 2
for global_step in range(8):
    obs, act, nxt, rew = torch.randn(16, 3), torch.rand(16, 1) * 2 - 1, torch.randn(16, 3), torch.randn(16)
    with torch.no_grad():
        noise = (torch.randn_like(act) * 0.2).clamp(-0.5, 0.5)
        next_act = (target_actor(nxt) + noise).clamp(-1, 1)
        min_q = torch.min(qf1_target(nxt, next_act), qf2_target(nxt, next_act))
        target = rew + 0.99 * min_q.view(-1)
    qf_loss = F.mse_loss(qf1(obs, act).view(-1), target) + F.mse_loss(qf2(obs, act).view(-1), target)
    q_optimizer.zero_grad()
    qf_loss.backward()
    q_optimizer.step()
    if global_step % policy_frequency == 0:
        actor_loss = -qf1(obs, actor(obs)).mean()
        actor_optimizer.zero_grad()
        actor_loss.backward()
        actor_optimizer.step()
        for param, target_param in zip(actor.parameters(), target_actor.parameters()):
            target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)
        for param, target_param in zip(qf1.parameters(), qf1_target.parameters()):
            target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)
        for param, target_param in zip(qf2.parameters(), qf2_target.parameters()):
            target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)
trained = [*actor.parameters(), *qf1.parameters(), *qf2.parameters()]
