"""Correct: soft actor-critic, three optimizers; critics are frozen while the actor learns, the temperature is a bare tensor."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(401)
actor, q1, q2 = nn.Linear(3, 2), nn.Linear(4, 1), nn.Linear(4, 1)
log_alpha = torch.zeros(1, requires_grad=True)
q_optimizer = torch.optim.Adam(list(q1.parameters()) + list(q2.parameters()), lr=1e-3)
actor_optimizer = torch.optim.Adam(list(actor.parameters()), lr=3e-4)
a_optimizer = torch.optim.Adam([log_alpha], lr=1e-3)


def get_action(obs):
    mean, log_std = actor(obs).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.tanh().exp())
    action = normal.rsample()
    return action.tanh(), normal.log_prob(action)


for step in range(5):
    obs, act, rew, nxt = torch.randn(6, 3), torch.rand(6, 1), torch.randn(6, 1), torch.randn(6, 3)
    alpha = log_alpha.exp().item()
    with torch.no_grad():
        next_act, next_logp = get_action(nxt)
        target = rew + 0.9 * (torch.min(q1(torch.cat([nxt, next_act], 1)), q2(torch.cat([nxt, next_act], 1))) - alpha * next_logp)
    sa = torch.cat([obs, act], 1)
    q_loss = F.mse_loss(q1(sa), target) + F.mse_loss(q2(sa), target)
    q_optimizer.zero_grad()
    q_loss.backward()
    q_optimizer.step()

    for p in [*q1.parameters(), *q2.parameters()]:
        p.requires_grad_(False)
    pi, logp = get_action(obs)
    spi = torch.cat([obs, pi], 1)
    actor_loss = (alpha * logp - torch.min(q1(spi), q2(spi))).mean()
    actor_optimizer.zero_grad()
    actor_loss.backward()
    actor_optimizer.step()
    for p in [*q1.parameters(), *q2.parameters()]:
        p.requires_grad_(True)

    alpha_loss = (-log_alpha.exp() * (logp.detach() - 1.0)).mean()
    a_optimizer.zero_grad()
    alpha_loss.backward()
    a_optimizer.step()
trained = [*actor.parameters(), *q1.parameters(), *q2.parameters(), log_alpha]
