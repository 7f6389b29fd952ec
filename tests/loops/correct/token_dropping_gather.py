"""Correct: an encoder-decoder MAE: visible patches are encoded, mask tokens put back with gather, loss on removed patches only."""
import torch
from torch import nn

torch.manual_seed(61)
enc, dec, mask_token = nn.Linear(6, 8), nn.Linear(8, 6), nn.Parameter(torch.zeros(1, 1, 8))
opt = torch.optim.AdamW([*enc.parameters(), *dec.parameters(), mask_token], lr=1e-3)
accum_iter = 4
opt.zero_grad()
for it in range(12):
    x = torch.randn(3, 10, 6)
    noise = torch.rand(3, 10)
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    keep = shuffle[:, :4]
    visible = torch.gather(x, 1, keep.unsqueeze(-1).repeat(1, 1, 6))
    latent = enc(visible)
    full = torch.cat([latent, mask_token.repeat(3, 6, 1)], dim=1)
    full = torch.gather(full, 1, restore.unsqueeze(-1).repeat(1, 1, 8))
    mask = torch.ones(3, 10)
    mask[:, :4] = 0
    mask = torch.gather(mask, 1, restore)
    loss = ((dec(full) - x) ** 2).mean(-1)
    loss = (loss * mask).sum() / mask.sum()
    loss /= accum_iter
    loss.backward()
    if (it + 1) % accum_iter == 0:
        opt.step()
        opt.zero_grad()
trained = [*enc.parameters(), *dec.parameters(), mask_token]
