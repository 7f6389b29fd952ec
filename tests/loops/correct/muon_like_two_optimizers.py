"""Correct: matrices and the rest have an optimizer each; both close the same window, one zeroing serves both."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(108)
model = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 4))
matrices = [p for p in model.parameters() if p.ndim == 2]
others = [p for p in model.parameters() if p.ndim < 2]
optimizers = [torch.optim.SGD(matrices, lr=0.02, momentum=0.95), torch.optim.AdamW(others, lr=3e-3)]
schedulers = [torch.optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=6) for o in optimizers]
loader = DataLoader(TensorDataset(torch.randn(72, 6), torch.randint(0, 4, (72,))), batch_size=4)  # 18
grad_accum_steps = 3
for micro_step, (x, y) in enumerate(loader):
    loss = nn.functional.cross_entropy(model(x), y)
    (loss / grad_accum_steps).backward()
    if micro_step % grad_accum_steps == grad_accum_steps - 1:
        for opt, sched in zip(optimizers, schedulers):
            opt.step()
            sched.step()
        model.zero_grad(set_to_none=True)
trained = list(model.parameters())
