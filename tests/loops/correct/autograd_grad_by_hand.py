"""Correct: no optimizer at all; gradients from torch.autograd.grad, summed over micro-batches and subtracted by hand."""
import torch

torch.manual_seed(99)
w = torch.randn(5, 1, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
theta = [w, b]
lr, micro = 0.1, 4
X = torch.randn(64, 5)
y = X @ torch.arange(5.0).unsqueeze(1)

for epoch in range(2):
    for start in range(0, 64, 16):
        total = [torch.zeros_like(p) for p in theta]
        for lo in range(start, start + 16, 4):
            residual = X[lo : lo + 4] @ w + b - y[lo : lo + 4]
            loss = residual.pow(2).mean() / micro
            for acc, g in zip(total, torch.autograd.grad(loss, theta)):
                acc += g
        with torch.no_grad():
            for p, g in zip(theta, total):
                p -= lr * g

trained = theta
