"""Broken: `continue` until the window is full; eight sentences, windows of three, and main() ends."""
import torch
from torch import nn


def main():
    torch.manual_seed(318)
    sentences = [torch.randint(0, 9, (6,)) for _ in range(8)]
    lm = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9))
    opt = torch.optim.SGD(lm.parameters(), lr=0.2)
    for k, s in enumerate(sentences):
        loss = nn.functional.cross_entropy(lm(s[:-1]), s[1:]) / 3
        loss.backward()
        if (k + 1) % 3 != 0:
            continue
        opt.step()  # expect: dropped-tail
        opt.zero_grad()
    return list(lm.parameters())


if __name__ == "__main__":
    trained = main()
