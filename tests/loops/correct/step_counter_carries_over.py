"""Correct: a counter over the whole run; a window may begin in one epoch and end in the next, always with 4."""
import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(4)

x = torch.randn(48, 7)
w_true = torch.randn(7, 1)
loader = DataLoader(TensorDataset(x, x @ w_true), batch_size=8, shuffle=True)  # 6 a pass, 12 in all
model = torch.nn.Linear(7, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

GRAD_ACCUM = 4
global_step = 0
num_updates = 0
for epoch in range(2):
    for batch_x, batch_y in loader:
        loss = torch.nn.functional.mse_loss(model(batch_x), batch_y)
        (loss / GRAD_ACCUM).backward()
        global_step += 1
        if global_step % GRAD_ACCUM == 0:
            optimizer.step()
            optimizer.zero_grad()
            num_updates += 1

assert num_updates == 3
trained = list(model.parameters())
