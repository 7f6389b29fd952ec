"""Broken: a scaler shared by two optimizers is updated after the first one's step, while the second's window is still open (accelerate's two-optimizer fault)."""
import torch
from torch import nn

torch.manual_seed(213)
critic, actor = nn.Linear(4, 1), nn.Linear(4, 4)
critic_opt = torch.optim.SGD(critic.parameters(), lr=0.05)
actor_opt = torch.optim.SGD(actor.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=1)
actor_every = 3

for i in range(9):
    s = torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        critic_loss = nn.functional.mse_loss(critic(s), s.sum(1, keepdim=True))
    critic_opt.zero_grad()
    scaler.scale(critic_loss).backward()
    scaler.step(critic_opt)

    with torch.autocast("cpu", torch.bfloat16):
        actor_loss = nn.functional.mse_loss(actor(s), s) / actor_every
    scaler.scale(actor_loss).backward()
    if (i + 1) % actor_every == 0:
        scaler.step(actor_opt)
        actor_opt.zero_grad()
    scaler.update()  # expect: scaler-update-inside-window

trained = [*critic.parameters(), *actor.parameters()]
