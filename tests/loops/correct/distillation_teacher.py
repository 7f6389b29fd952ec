"""Correct: a frozen teacher's soft targets, KL plus cross entropy, logged as the window's own mean."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(114)
teacher = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval().requires_grad_(False)
student = nn.Linear(6, 4)
optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
T, alpha, accum = 2.0, 0.7, 2
loader = DataLoader(TensorDataset(torch.randn(32, 6), torch.randint(0, 4, (32,))), batch_size=8)
logged = []
for epoch in range(2):
    window_loss = 0.0
    for i, (x, y) in enumerate(loader):
        s, t = student(x), teacher(x)
        soft = F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean") * T * T
        loss = (alpha * soft + (1 - alpha) * F.cross_entropy(s, y)) / accum
        loss.backward()
        window_loss += loss.item()
        if (i + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad()
            logged.append(window_loss)
            window_loss = 0.0
trained = list(student.parameters())
