"""Correct: SigLIP's pairwise sigmoid loss over a window whose features are cached and replaced one micro-batch at a time."""
import torch
import torch.nn.functional as F
from torch import nn


class SigLip(nn.Module):
    def __init__(self):
        super().__init__()
        self.img, self.txt = nn.Linear(9, 4), nn.Linear(7, 4)
        self.t, self.b = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-10.0))

    def encode(self, i, t):
        return F.normalize(self.img(i), dim=-1), F.normalize(self.txt(t), dim=-1)


def siglip_loss(zi, zt, t, b):
    logits = zi @ zt.T * t.exp() + b
    labels = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(labels * logits).sum() / len(logits)


torch.manual_seed(4)
model = SigLip()
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(3):
    batches = [(torch.randn(5, 9), torch.randn(5, 7)) for _ in range(4)]
    with torch.no_grad():
        feats = [model.encode(*b) for b in batches]
    for k, b in enumerate(batches):
        zi, zt = model.encode(*b)
        all_i = torch.cat([f[0] for f in feats[:k]] + [zi] + [f[0] for f in feats[k + 1:]])
        all_t = torch.cat([f[1] for f in feats[:k]] + [zt] + [f[1] for f in feats[k + 1:]])
        # temperature and bias get their gradient once
        t, bias = (model.t, model.b) if k == 0 else (model.t.detach(), model.b.detach())
        loss = siglip_loss(all_i, all_t, t, bias)
        loss.backward()
    opt.step()
    opt.zero_grad()
trained = list(model.parameters())
