"""Correct: REINFORCE; a window is a batch of episodes, each episode's summed loss over the number of episodes."""
import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(39)
GAMMA, EPISODES_PER_UPDATE = 0.99, 3


class Corridor:
    """Walk right to win; longer walks are worse."""

    def reset(self):
        self.pos, self.t = 0, 0
        return self._obs()

    def step(self, action):
        self.pos += 1 if action == 1 else -1
        self.t += 1
        done = self.pos >= 2 or self.t >= 6
        return self._obs(), (1.0 if self.pos >= 2 else -0.1), done

    def _obs(self):
        return torch.tensor([self.pos / 2.0, self.t / 6.0])


policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
env = Corridor()

for update in range(3):
    for episode in range(EPISODES_PER_UPDATE):
        state, done, log_probs, rewards = env.reset(), False, [], []
        while not done:
            dist = Categorical(logits=policy(state))
            action = dist.sample()
            log_probs.append(dist.log_prob(action))
            state, r, done = env.step(action.item())
            rewards.append(r)
        returns, g = [], 0.0
        for r in reversed(rewards):
            g = r + GAMMA * g
            returns.insert(0, g)
        policy_loss = -(torch.stack(log_probs) * torch.tensor(returns)).sum()
        (policy_loss / EPISODES_PER_UPDATE).backward()
    optimizer.step()
    optimizer.zero_grad()

trained = list(policy.parameters())
