"""Correct: mixup: the loss is a blend of two cross entropies whose share is drawn for each micro-batch, divided by the window."""
import torch
from torch import nn

torch.manual_seed(17)
model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 4))
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
accum, alpha = 2, 1.0
beta = torch.distributions.Beta(alpha, alpha)


def mixup_data(x, y, fixed=None):
    lam = beta.sample().item() if fixed is None else fixed
    index = torch.randperm(x.size(0))
    return lam * x + (1 - lam) * x[index, :], y, y[index], lam


def mixup_criterion(criterion, pred, y_a, y_b, lam):
    return lam * criterion(pred, y_a) + (1 - lam) * criterion(pred, y_b)


for i in range(8):
    inputs, targets = torch.randn(12, 10), torch.randint(0, 4, (12,))
    inputs, targets_a, targets_b, lam = mixup_data(inputs, targets, fixed=0.5 if i > 5 else None)
    loss = mixup_criterion(criterion, model(inputs), targets_a, targets_b, lam)
    loss = loss / accum
    loss.backward()
    if i % accum == accum - 1:
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
