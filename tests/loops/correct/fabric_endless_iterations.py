"""Correct: a pretraining loop on Fabric: counted iterations over endless epochs, the rate set by hand for each update."""
import math
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def get_lr(step, warmup=2, total=8, base=0.1):
    return base * (step + 1) / warmup if step < warmup else base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

def main():
    torch.manual_seed(237)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.launch()
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=0.1))
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(torch.randn(64, 6), torch.randint(0, 3, (64,))), batch_size=4))
    gradient_accumulation_iters, max_steps = 4, 8
    iter_num = step_count = 0
    while step_count < max_steps:
        for x, y in loader:
            if step_count >= max_steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = get_lr(step_count)
            iter_num += 1
            is_accumulating = iter_num % gradient_accumulation_iters != 0
            with fabric.no_backward_sync(model, enabled=is_accumulating):
                logits = model(x)
                loss = nn.functional.cross_entropy(logits.float(), y)
                fabric.backward(loss / gradient_accumulation_iters)
            if not is_accumulating:
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                optimizer.zero_grad()
                step_count += 1
    return list(model.parameters())


trained = main()
