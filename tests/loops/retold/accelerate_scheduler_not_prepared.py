"""Broken: the scheduler is left out of prepare(), so nothing holds it back while gradients accumulate (accelerate#963)."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main(epochs=2):
    torch.manual_seed(205)
    accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
    unet = nn.Sequential(nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 5))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.98**s)
    loader = DataLoader(TensorDataset(torch.randn(32, 5)), batch_size=4)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    for _ in range(epochs):
        for (latents,) in loader:
            noise = torch.randn_like(latents)
            with accelerator.accumulate(unet):
                loss = nn.functional.mse_loss(unet(latents + noise), noise)
                accelerator.backward(loss)
                optimizer.step()
                lr_scheduler.step()  # expect: scheduler-per-micro-batch
                optimizer.zero_grad()
    return list(accelerator.unwrap_model(unet).parameters())


if __name__ == "__main__":
    trained = main()
