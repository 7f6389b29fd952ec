"""Correct: world model, actor and critic with three optimizers, each zeroed right before its own backward."""
import torch
from torch import nn
torch.manual_seed(12)
world, actor, critic = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 1)
wo, ao, co = (torch.optim.Adam(m.parameters(), lr=1e-3) for m in (world, actor, critic))


class OptimizerWrap:
    def __init__(self, params, opt):
        self.params, self.opt = list(params), opt

    def __call__(self, loss, retain_graph=False):
        self.opt.zero_grad()
        loss.backward(retain_graph=retain_graph)
        norm = nn.utils.clip_grad_norm_(self.params, 100.0)
        self.opt.step()
        return norm.item()


wopt, aopt, copt = OptimizerWrap(world.parameters(), wo), OptimizerWrap(actor.parameters(), ao), OptimizerWrap(critic.parameters(), co)
for step in range(5):
    x = torch.randn(8, 6)
    wopt((world(x) - x.roll(1, 1)).pow(2).mean())
    for p in world.parameters():
        p.requires_grad_(False)
    imagined = world(x)
    action = torch.tanh(actor(imagined))
    aopt(-(critic(imagined) * action.mean(1, keepdim=True)).mean())
    copt((critic(imagined.detach()) - x.sum(1, keepdim=True)).pow(2).mean())
    for p in world.parameters():
        p.requires_grad_(True)
trained = [*world.parameters(), *actor.parameters(), *critic.parameters()]
