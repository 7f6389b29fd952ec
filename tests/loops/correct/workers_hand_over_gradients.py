"""Correct: A3C-like workers in turn compute gradients on local copies and hand them to the shared model's optimizer."""
import copy
import torch
torch.manual_seed(24)
shared = torch.nn.Linear(4, 3)
opt = torch.optim.Adam(shared.parameters(), lr=1e-3)
local_models = [copy.deepcopy(shared) for _ in range(2)]
for episode in range(4):
    for local in local_models:
        local.load_state_dict(shared.state_dict())
        dist = torch.distributions.Categorical(logits=local(torch.randn(5, 4)))
        a = dist.sample()
        loss = -(dist.log_prob(a) * torch.randn(5)).mean()
        opt.zero_grad()
        local.zero_grad()
        loss.backward()
        for lp, sp in zip(local.parameters(), shared.parameters()):
            sp._grad = lp.grad
        opt.step()
trained = list(shared.parameters())
