"""Correct: uneven token counts; the window's tokens are counted before its first backward, losses are sums."""
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(26)
VOCAB, PAD = 11, -100


def make_batch(lengths):
    width = max(lengths)
    ids = torch.randint(0, VOCAB, (len(lengths), width))
    labels = ids.roll(-1, dims=1)
    for row, length in enumerate(lengths):
        labels[row, length - 1 :] = PAD
    return {"input_ids": ids, "labels": labels}


batches = [make_batch(lengths) for lengths in ([3, 9], [4, 4], [12, 2], [7, 5], [2, 3], [8, 8], [6, 10])]
lm = nn.Sequential(nn.Embedding(VOCAB, 8), nn.Linear(8, VOCAB))
opt = torch.optim.AdamW(lm.parameters(), lr=1e-2, weight_decay=0.1)
GA = 3

for epoch in range(2):
    for start in range(0, len(batches), GA):
        window = batches[start : start + GA]
        num_items_in_batch = sum(int((b["labels"] != PAD).sum()) for b in window)
        for b in window:
            logits = lm(b["input_ids"])
            loss = F.cross_entropy(logits.flatten(0, 1), b["labels"].flatten(), ignore_index=PAD, reduction="sum")
            loss = loss / num_items_in_batch
            loss.backward()
        opt.step()
        opt.zero_grad()

trained = list(lm.parameters())
