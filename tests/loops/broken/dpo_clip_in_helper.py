"""Broken: the clip sits one level too deep, inside the loop over micro-batches of one global batch."""
import copy

import torch
import torch.nn.functional as F
from torch import nn


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.rnn, self.lm_head = nn.Embedding(13, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 13)

    def forward(self, ids):
        return self.lm_head(self.rnn(self.wte(ids))[0])


def batch_logps(logits, labels, mask):
    labels, logits, mask = labels[:, 1:], logits[:, :-1], mask[:, 1:]
    per_token = torch.gather(logits.log_softmax(-1), 2, labels.unsqueeze(2)).squeeze(2)
    return (per_token * mask).sum(-1)


torch.manual_seed(18)
policy = LM()
reference = copy.deepcopy(policy).eval()
for p in reference.parameters():
    p.requires_grad_(False)
optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-3)
grad_accum, beta = 4, 0.1
for step in range(3):
    global_batch = {"ids": torch.randint(0, 13, (2, 16, 7)), "mask": (torch.rand(2, 16, 7) > 0.3).float()}
    for mb in range(grad_accum):
        rows = slice(mb * 4, mb * 4 + 4)
        ids = torch.cat([global_batch["ids"][0, rows], global_batch["ids"][1, rows]], dim=0)
        mask = torch.cat([global_batch["mask"][0, rows], global_batch["mask"][1, rows]], dim=0)
        chosen, rejected = batch_logps(policy(ids), ids, mask).split(4)
        with torch.no_grad():
            ref_chosen, ref_rejected = batch_logps(reference(ids), ids, mask).split(4)
        logits = (chosen - rejected) - (ref_chosen - ref_rejected)
        losses = -F.logsigmoid(beta * logits)
        loss = losses.mean()
        (loss / grad_accum).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 10.0)  # expect: clip-inside-window
    optimizer.step()
    optimizer.zero_grad()
trained = list(policy.parameters())
