"""Correct: deep supervision with weights 1, 1/2, 1/4 normalised by their sum (nnU-Net), then divided by a window of four."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv1d(2, 4, 3, 2, 1), nn.Conv1d(4, 4, 3, 2, 1), nn.Conv1d(4, 4, 3, 2, 1)])
        self.heads = nn.ModuleList(nn.Conv1d(4, 3, 1) for _ in range(3))

    def forward(self, x):
        outs = []
        for d, h in zip(self.down, self.heads):
            x = torch.relu(d(x))
            outs.append(h(x))
        return outs


def dice_and_ce(logits, target):
    p = logits.softmax(1)
    onehot = nn.functional.one_hot(target, 3).transpose(1, 2).float()
    dice = (2 * (p * onehot).sum(2) + 1e-5) / ((p + onehot).sum(2) + 1e-5)
    return nn.functional.cross_entropy(logits, target) + (1 - dice.mean())


torch.manual_seed(16)
net = Net()
opt = torch.optim.SGD(net.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
weights = [1 / (2 ** i) for i in range(3)]
weights = [w / sum(weights) for w in weights]
raw = [1.0, 0.5, 0.25]
iters_to_accumulate = 4
for it in range(12):
    x, y = torch.randn(2, 2, 16), torch.randint(0, 3, (2, 16))
    targets = [y[:, ::2], y[:, ::4], y[:, ::8]]
    outputs = net(x)
    w = weights if it < 8 else raw
    l = w[0] * dice_and_ce(outputs[0], targets[0])
    for i in range(1, 3):
        l = l + w[i] * dice_and_ce(outputs[i], targets[i])
    l = l / iters_to_accumulate
    l.backward()
    if (it + 1) % iters_to_accumulate == 0:
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
        opt.step()
        opt.zero_grad()
trained = list(net.parameters())
