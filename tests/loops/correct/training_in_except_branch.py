"""Correct: the whole training runs inside an `except ImportError` fallback branch."""
import torch
torch.manual_seed(4)


def train_plain():
    net = torch.nn.Linear(4, 2)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for i in range(8):
        (torch.nn.functional.cross_entropy(net(torch.randn(4, 4)), torch.randint(2, (4,))) / 2).backward()
        if i % 2:
            opt.step()
            opt.zero_grad()
    return net


try:
    import a_fused_trainer_that_does_not_exist
except ImportError:
    net = train_plain()
trained = list(net.parameters())
