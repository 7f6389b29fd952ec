"""Correct: FSDP2; gradients stay unreduced until the window's last micro-batch turns the reduction on."""
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(146)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6))
mesh = init_device_mesh("cpu", (1,))
for layer in (model[0], model[2]):
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

num_micro_batches = 3
for window in torch.randn(3, num_micro_batches, 4, 6):
    for i, x in enumerate(window):
        model.set_requires_gradient_sync(i == num_micro_batches - 1)
        loss = nn.functional.mse_loss(model(x), x)
        (loss / num_micro_batches).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()

trained = [p.full_tensor().detach() for p in model.parameters()]
dist.destroy_process_group()
