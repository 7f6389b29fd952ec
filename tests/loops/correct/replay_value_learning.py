"""Correct: a value network from a replay buffer; the target network follows once per update, under no_grad."""
import copy
import random
from collections import deque

import torch
import torch.nn as nn

random.seed(0)
torch.manual_seed(92)
q_net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
q_target = copy.deepcopy(q_net)
optimizer = torch.optim.RMSprop(q_net.parameters(), lr=5e-4)
memory = deque(maxlen=100)
for _ in range(40):
    memory.append((torch.randn(3), random.randrange(2), random.random(), torch.randn(3), random.random() < 0.1))


def optimize_model():
    s, a, r, s2, done = zip(*random.sample(memory, 8))
    q = q_net(torch.stack(s)).gather(1, torch.tensor(a).unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        best = q_target(torch.stack(s2)).max(1).values
    expected = torch.tensor(r) + 0.95 * best * (1 - torch.tensor(done, dtype=torch.float))
    loss = nn.SmoothL1Loss()(q, expected)
    optimizer.zero_grad()
    loss.backward()
    for p in q_net.parameters():
        p.grad.data.clamp_(-1, 1)
    optimizer.step()


for t in range(6):
    optimize_model()
    with torch.no_grad():
        for p, p_t in zip(q_net.parameters(), q_target.parameters()):
            p_t.lerp_(p, 0.01)

trained = [*q_net.parameters(), *q_target.parameters()]
