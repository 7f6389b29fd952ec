"""Correct: an endless stream, next() inside a range of micro-steps, the way small language-model trainers do."""
import math

import torch
import torch.nn as nn
from torch.nn import functional as F

torch.manual_seed(1337)

# -----------------------------------------------------------------------------
gradient_accumulation_steps = 4
batch_size = 4
block_size = 8
vocab_size = 17
max_iters = 5
learning_rate = 1e-2
grad_clip = 1.0
# -----------------------------------------------------------------------------

data = torch.randint(0, vocab_size, (512,))


def get_batch():
    ix = torch.randint(len(data) - block_size - 1, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + 1 + block_size] for i in ix])
    return x, y


class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, 12)
        self.lm_head = nn.Linear(12, vocab_size)

    def forward(self, idx, targets):
        logits = self.lm_head(self.wte(idx))
        return logits, F.cross_entropy(logits.view(-1, vocab_size), targets.view(-1))


def get_lr(it):
    return learning_rate * 0.5 * (1.0 + math.cos(math.pi * it / max_iters))


model = Bigram()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
X, Y = get_batch()
for iter_num in range(max_iters):
    for group in optimizer.param_groups:
        group["lr"] = get_lr(iter_num)
    lossf = 0.0
    for micro_step in range(gradient_accumulation_steps):
        logits, loss = model(X, Y)
        loss = loss / gradient_accumulation_steps
        lossf += loss.detach()
        X, Y = get_batch()
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

trained = list(model.parameters())
