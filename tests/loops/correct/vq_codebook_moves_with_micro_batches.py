"""Correct: VQ-VAE: the codebook is no trained weight, it follows its clusters by running averages in every forward."""
import torch
import torch.nn.functional as F
from torch import nn


class VectorQuantizerEMA(nn.Module):
    def __init__(self, n=6, dim=4, decay=0.99):
        super().__init__()
        self.decay, self.eps = decay, 1e-5
        embed = torch.randn(n, dim)
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.zeros(n))
        self.register_buffer("embed_avg", embed.clone())

    def forward(self, z):
        ind = torch.cdist(z, self.embed).argmin(1)
        onehot = F.one_hot(ind, len(self.embed)).float()
        q = self.embed[ind]
        if self.training:
            with torch.no_grad():
                self.cluster_size.data.mul_(self.decay).add_(onehot.sum(0), alpha=1 - self.decay)
                self.embed_avg.data.mul_(self.decay).add_(onehot.T @ z.detach(), alpha=1 - self.decay)
                n = self.cluster_size.sum()
                size = (self.cluster_size + self.eps) / (n + len(self.embed) * self.eps) * n
                self.embed.data.copy_(self.embed_avg / size.unsqueeze(1))
        commit = (q.detach() - z).pow(2).mean()
        return z + (q - z).detach(), commit


torch.manual_seed(41)
encoder, decoder, vq = nn.Linear(8, 4), nn.Linear(4, 8), VectorQuantizerEMA()
opt = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
accumulate = 2
for i, x in enumerate(torch.randn(8, 16, 8)):
    q, commit = vq(encoder(x))
    loss = F.mse_loss(decoder(q), x) + 0.25 * commit
    (loss / accumulate).backward()
    if (i + 1) % accumulate == 0:
        opt.step()
        opt.zero_grad()
trained = [*encoder.parameters(), *decoder.parameters(), *vq.buffers()]
