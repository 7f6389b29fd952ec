"""Broken: GRPO over a short last micro-batch: means of 3, 3 and 2 answers, each divided by their number of micro-batches."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(29)
policy = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
num_generations, micro, mu = 8, 3, 2
for step in range(3):
    with torch.no_grad():
        ids = torch.randint(0, 9, (num_generations, 6))
        lengths = torch.randint(2, 7, (num_generations,))
        mask = (torch.arange(6)[None] < lengths[:, None]).float()
        old = policy(ids).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        rewards = torch.randn(num_generations)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    for _ in range(mu):
        for lo in range(0, num_generations, micro):
            s = slice(lo, lo + micro)
            logps = policy(ids[s]).log_softmax(-1).gather(-1, ids[s][..., None])[..., 0]
            ratio = torch.exp(logps - old[s])
            a = advantages[s, None]
            per_token_loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.28) * a)
            loss = ((per_token_loss * mask[s]).sum(1) / mask[s].sum(1)).mean() / 3
            loss.backward()  # expect[audit]: mean-of-means
        nn.utils.clip_grad_norm_(policy.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
trained = list(policy.parameters())
