"""Correct: a physics-informed network: residuals by autograd.grad with create_graph, Adam first, then LBFGS with its closure."""
import torch
from torch import nn

torch.manual_seed(20)
net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 1))


def residual(tx):
    tx = tx.requires_grad_(True)
    u = net(tx)
    du = torch.autograd.grad(u.sum(), tx, create_graph=True)[0]
    u_xx = torch.autograd.grad(du[:, 1].sum(), tx, create_graph=True)[0][:, 1]
    return du[:, 0] + u[:, 0] * du[:, 1] - 0.01 / torch.pi * u_xx


collocation, boundary, values = torch.rand(24, 2), torch.rand(8, 2), torch.rand(8, 1)


def total_loss():
    mse_u = nn.functional.mse_loss(net(boundary), values)
    mse_f = residual(collocation).pow(2).mean()
    return mse_u + mse_f


adam = torch.optim.Adam(net.parameters(), lr=1e-3)
for _ in range(5):
    adam.zero_grad()
    loss = total_loss()
    loss.backward()
    adam.step()

lbfgs = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4, history_size=5, line_search_fn="strong_wolfe")


def closure():
    lbfgs.zero_grad()
    loss = total_loss()
    loss.backward()
    return loss


for _ in range(3):
    lbfgs.step(closure)
trained = list(net.parameters())
