"""Correct: the actor's loss also reaches the critic's weights; the critic zeroes before its own backward."""
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(40)
obs_dim, act_dim = 4, 2
actor = nn.Sequential(nn.Linear(obs_dim, 16), nn.ReLU(), nn.Linear(16, act_dim), nn.Tanh())
critic = nn.Sequential(nn.Linear(obs_dim + act_dim, 16), nn.ReLU(), nn.Linear(16, 1))
critic_target = nn.Sequential(nn.Linear(obs_dim + act_dim, 16), nn.ReLU(), nn.Linear(16, 1))
critic_target.load_state_dict(critic.state_dict())
actor_opt = torch.optim.Adam(actor.parameters(), lr=1e-3)
critic_opt = torch.optim.Adam(critic.parameters(), lr=1e-3)
gamma, tau = 0.99, 0.05

for _ in range(5):
    obs, act = torch.randn(8, obs_dim), torch.rand(8, act_dim) * 2 - 1
    rew, nxt = torch.randn(8, 1), torch.randn(8, obs_dim)

    with torch.no_grad():
        target_q = rew + gamma * critic_target(torch.cat([nxt, actor(nxt)], 1))
    critic_loss = F.mse_loss(critic(torch.cat([obs, act], 1)), target_q)
    critic_opt.zero_grad()
    critic_loss.backward()
    critic_opt.step()

    actor_loss = -critic(torch.cat([obs, actor(obs)], 1)).mean()
    actor_opt.zero_grad()
    actor_loss.backward()
    actor_opt.step()

    for p, tp in zip(critic.parameters(), critic_target.parameters()):
        tp.data.copy_(tau * p.data + (1 - tau) * tp.data)

trained = [*actor.parameters(), *critic.parameters(), *critic_target.parameters()]
