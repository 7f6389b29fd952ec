"""Correct: Accelerate with bfloat16, two models and two optimizers in one window, a schedule prepared, metrics gathered."""
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(603)
accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2, cpu=True)
text, image = nn.Linear(5, 4), nn.Linear(7, 4)
opt_t, opt_i = torch.optim.AdamW(text.parameters(), lr=1e-3), torch.optim.AdamW(image.parameters(), lr=1e-3)
sched = torch.optim.lr_scheduler.StepLR(opt_t, 2)
dl = DataLoader(TensorDataset(torch.randn(32, 5), torch.randn(32, 7)), batch_size=4, shuffle=True)
text, image, opt_t, opt_i, dl, sched = accelerator.prepare(text, image, opt_t, opt_i, dl, sched)
for epoch in range(2):
    seen = []
    for t, i in dl:
        with accelerator.accumulate(text, image):
            loss = (text(t) - image(i)).float().square().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_([*text.parameters(), *image.parameters()], 1.0)
            opt_t.step()
            opt_i.step()
            sched.step()
            opt_t.zero_grad()
            opt_i.zero_grad()
        seen.append(accelerator.gather(loss.detach()))
    epoch_loss = torch.stack(seen).mean().item()
trained = [*accelerator.unwrap_model(text).parameters(), *accelerator.unwrap_model(image).parameters()]
