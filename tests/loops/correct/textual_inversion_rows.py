"""Correct: textual inversion: after each backward the gradient of all tokens but the new one is emptied, row by row."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(42)
text_encoder = nn.ModuleDict({"emb": nn.Embedding(12, 6), "proj": nn.Linear(6, 4)})
text_encoder["proj"].requires_grad_(False)
placeholder = torch.tensor(11)
optimizer = torch.optim.AdamW(text_encoder["emb"].parameters(), lr=5e-3, weight_decay=0.0)
original = text_encoder["emb"].weight.data.clone()
accumulation = 4
for step in range(12):
    ids = torch.randint(0, 11, (3, 5))
    ids[:, 2] = placeholder
    out = text_encoder["proj"](text_encoder["emb"](ids).mean(1))
    loss = F.mse_loss(out, torch.ones(3, 4), reduction="mean") / accumulation
    loss.backward()
    grads = text_encoder["emb"].weight.grad
    index_grads_to_zero = torch.arange(12) != placeholder
    grads.data[index_grads_to_zero, :] = grads.data[index_grads_to_zero, :].fill_(0)
    if (step + 1) % accumulation == 0:
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            text_encoder["emb"].weight[index_grads_to_zero] = original[index_grads_to_zero]
trained = list(text_encoder.parameters())
