"""Correct: clipped policy optimisation; several epochs over one rollout, each minibatch in two micro-batches by advantage count."""
import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(133)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
clip_coef, ent_coef, vf_coef = 0.2, 0.01, 0.5
num_updates, update_epochs, batch_size, minibatch_size, micro_size = 2, 2, 16, 8, 4

for update in range(1, num_updates + 1):
    optimizer.param_groups[0]["lr"] = 2.5e-4 * (1.0 - (update - 1.0) / num_updates)
    b_obs = torch.randn(batch_size, 4)
    with torch.no_grad():
        dist = Categorical(logits=agent.actor(b_obs))
        b_actions = dist.sample()
        b_logprobs = dist.log_prob(b_actions)
    b_returns, b_advantages = torch.randn(batch_size), torch.randn(batch_size)
    for epoch in range(update_epochs):
        b_inds = torch.randperm(batch_size)
        for start in range(0, batch_size, minibatch_size):
            mb_inds = b_inds[start : start + minibatch_size]
            optimizer.zero_grad()
            for micro in mb_inds.split(micro_size):
                dist = Categorical(logits=agent.actor(b_obs[micro]))
                ratio = (dist.log_prob(b_actions[micro]) - b_logprobs[micro]).exp()
                adv = b_advantages[micro]
                pg_loss = torch.max(-adv * ratio, -adv * ratio.clamp(1 - clip_coef, 1 + clip_coef)).mean()
                v_loss = 0.5 * ((agent.critic(b_obs[micro]).view(-1) - b_returns[micro]) ** 2).mean()
                loss = pg_loss - ent_coef * dist.entropy().mean() + v_loss * vf_coef
                (loss * len(micro) / len(mb_inds)).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()

trained = list(agent.parameters())
