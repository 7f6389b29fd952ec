"""Broken: one document is one micro-batch, of 3 to 20 tokens, and every document's mean counts a quarter (nanochat PR#59's kind)."""
import torch
from torch import nn


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(16, 6), nn.GRU(6, 6, batch_first=True), nn.Linear(6, 16)

    def loss(self, ids):
        h, _ = self.rnn(self.emb(ids[None, :-1]))
        return nn.functional.cross_entropy(self.out(h[0]), ids[1:])


def update(model, opt, documents):
    opt.zero_grad()
    for doc in documents:
        loss = model.loss(doc) / len(documents)
        loss.backward()  # expect: mean-of-means
    opt.step()


torch.manual_seed(142)
lm = LM()
adam = torch.optim.Adam(lm.parameters())
corpus = [torch.randint(0, 16, (n,)) for n in (4, 21, 9, 13, 6, 17, 5, 11)]
for start in range(0, len(corpus), 4):
    update(lm, adam, corpus[start : start + 4])
trained = list(lm.parameters())
