"""Correct: hardest-negative triplet loss over cached embeddings of the window plus the fresh ones, sum over pairs of the whole window."""
import torch
import torch.nn as nn

torch.manual_seed(3)
net = nn.Sequential(nn.Linear(5, 10), nn.Tanh(), nn.Linear(10, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.05)
labels_of_window = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 0, 2, 1, 2])


def triplet_loss(embeddings, labels, margin=0.3):
    distances = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels[None, :]
    hardest_positive = distances.masked_fill(~same, 0).max(1).values
    hardest_negative = distances.masked_fill(same, 1e9).min(1).values
    return torch.relu(hardest_positive - hardest_negative + margin).mean()


for step in range(4):
    micro = torch.randn(12, 5).split(4)
    with torch.no_grad():
        cached = [net(x) for x in micro]
    for k, x in enumerate(micro):
        embeddings = torch.cat([net(x) if i == k else cached[i] for i in range(3)])
        triplet_loss(embeddings, labels_of_window).backward()
    opt.step()
    opt.zero_grad(set_to_none=True)
trained = list(net.parameters())
