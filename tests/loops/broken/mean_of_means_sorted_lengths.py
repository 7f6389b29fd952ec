"""Broken: sequences sorted by length, a constant number per micro-batch, the padding ignored by the loss: long ones weigh too little."""
import torch
from torch import nn

torch.manual_seed(416)
PAD = 0
emb, gru, out = nn.Embedding(10, 6, padding_idx=PAD), nn.GRU(6, 6, batch_first=True), nn.Linear(6, 10)
modules = nn.ModuleList([emb, gru, out])
opt = torch.optim.SGD(modules.parameters(), lr=0.5)
crit = nn.CrossEntropyLoss(ignore_index=PAD)
lengths = sorted([3, 4, 5, 9, 10, 14, 18, 20])
for _ in range(2):
    for start in range(0, 8, 2):
        seqs = [torch.randint(1, 10, (n,)) for n in lengths[start : start + 2]]
        ids = nn.utils.rnn.pad_sequence(seqs, batch_first=True, padding_value=PAD)
        h, _ = gru(emb(ids[:, :-1]))
        loss = crit(out(h).flatten(0, 1), ids[:, 1:].flatten()) / 4
        loss.backward()  # expect[audit]: mean-of-means
    opt.step()
    opt.zero_grad()
trained = list(modules.parameters())
