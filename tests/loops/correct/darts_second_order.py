"""Correct: DARTS: architecture weights by unrolled second-order gradients written into `.grad`, network weights by their own optimizer."""
import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.ops = nn.ModuleList([nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU())])
        self.out = nn.Linear(6, 3)
        self.alphas = nn.Parameter(1e-3 * torch.randn(2))

    def weights(self):
        return [p for n, p in self.named_parameters() if n != "alphas"]

    def forward(self, x):
        w = softmax(self.alphas, 0)
        return self.out(sum(a * op(x) for a, op in zip(w, self.ops)))


class Architect:
    def __init__(self, net):
        self.net, self.v_net = net, copy.deepcopy(net)

    def unrolled_backward(self, trn, val, xi):
        loss = cross_entropy(self.net(trn[0]), trn[1])
        gradients = torch.autograd.grad(loss, self.net.weights())
        with torch.no_grad():
            for w, vw, g in zip(self.net.weights(), self.v_net.weights(), gradients):
                vw.copy_(w - xi * g)
            self.v_net.alphas.copy_(self.net.alphas)
        loss = cross_entropy(self.v_net(val[0]), val[1])
        v_grads = torch.autograd.grad(loss, [self.v_net.alphas, *self.v_net.weights()])
        dalpha, dw = v_grads[0], v_grads[1:]
        eps = 0.01 / torch.cat([w.view(-1) for w in dw]).norm()
        sides = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(self.net.weights(), dw):
                    p += sign * eps * d
            loss = cross_entropy(self.net(trn[0]), trn[1])
            sides.append(torch.autograd.grad(loss, [self.net.alphas])[0])
        with torch.no_grad():
            for p, d in zip(self.net.weights(), dw):
                p += eps * d
        self.net.alphas.grad = dalpha - xi * (sides[0] - sides[1]) / (2.0 * eps)


torch.manual_seed(21)
model = Cell()
architect = Architect(model)
w_optim = torch.optim.SGD(model.weights(), 0.025, momentum=0.9)
alpha_optim = torch.optim.Adam([model.alphas], 3e-4, betas=(0.5, 0.999))
for step in range(5):
    trn = torch.randn(8, 6), torch.randint(0, 3, (8,))
    val = torch.randn(8, 6), torch.randint(0, 3, (8,))
    alpha_optim.zero_grad()
    architect.unrolled_backward(trn, val, 0.025)
    alpha_optim.step()
    w_optim.zero_grad()
    loss = cross_entropy(model(trn[0]), trn[1])
    loss.backward()
    nn.utils.clip_grad_norm_(model.weights(), 5.0)
    w_optim.step()
trained = list(model.parameters())
