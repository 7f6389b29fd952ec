"""Broken: the embedding's optimizer is fused into backward to save memory, while the rest of the model accumulates."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 6)
        self.out = nn.Linear(6, 5)

    def forward(self, ids):
        return self.out(self.embedding(ids)).transpose(1, 2)


def fuse_into_backward(param, make):
    inner = make([param])

    def hook(p):
        inner.step()
        p.grad = None

    param.register_post_accumulate_grad_hook(hook)


torch.manual_seed(58)
model = Tagger()
fuse_into_backward(model.embedding.weight, lambda ps: torch.optim.Adam(ps, lr=1e-2))
opt = torch.optim.Adam(model.out.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(torch.randint(0, 30, (32, 7)), torch.randint(0, 5, (32, 7))), batch_size=4)
for i, (ids, tags) in enumerate(loader):
    (nn.functional.cross_entropy(model(ids), tags) / 4).backward()  # expect: optimizer-in-backward
    if (i + 1) % 4 == 0:
        opt.step()
        opt.zero_grad()
trained = list(model.parameters())
