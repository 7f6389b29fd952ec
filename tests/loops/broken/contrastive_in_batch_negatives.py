"""Broken: a retriever with in-batch negatives, accumulated as if its loss were a mean over pairs (sentence-transformers PR#1822)."""
import torch
from torch import nn


class BiEncoder(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.emb = nn.EmbeddingBag(40, dim)

    def encode(self, tokens):
        return nn.functional.normalize(self.emb(tokens))


class InBatchNegatives(nn.Module):
    def __init__(self, model, scale=20.0):
        super().__init__()
        self.model, self.scale = model, scale
        self.cross_entropy = nn.CrossEntropyLoss()

    def forward(self, queries, docs):
        scores = torch.mm(self.model.encode(queries), self.model.encode(docs).t()) * self.scale
        return self.cross_entropy(scores, torch.arange(scores.size(0)))


torch.manual_seed(82)
model = BiEncoder()
train_loss = InBatchNegatives(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
pairs = [(torch.randint(0, 40, (6, 5)), torch.randint(0, 40, (6, 5))) for _ in range(6)]
window_size = 3
optimizer.zero_grad()
for n, (q, d) in enumerate(pairs, start=1):
    loss_value = train_loss(q, d) / window_size
    loss_value.backward()  # expect: contrastive-in-window
    if n % window_size == 0:
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
