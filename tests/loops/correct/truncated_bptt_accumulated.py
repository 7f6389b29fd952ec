"""Correct: chunks of one long sequence accumulate; weights of the chunks are their time steps, the last is shorter."""
import torch
from torch import nn


class CharModel(nn.Module):
    def __init__(self, vocab, hidden):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.cell = nn.LSTM(hidden, hidden, batch_first=True)
        self.decode = nn.Linear(hidden, vocab)

    def forward(self, ids, state):
        out, state = self.cell(self.embed(ids), state)
        return self.decode(out), state


def repackage(state):
    return tuple(s.detach() for s in state) if state is not None else None


torch.manual_seed(94)
model = CharModel(12, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
for document in torch.randint(0, 12, (4, 2, 27)):
    inputs, targets = document[:, :-1], document[:, 1:]
    num_targets = targets.numel()
    state = None
    for ids, tgt in zip(inputs.split(8, dim=1), targets.split(8, dim=1)):
        state = repackage(state)
        logits, state = model(ids, state)
        loss_sum = nn.functional.cross_entropy(logits.reshape(-1, 12), tgt.reshape(-1), reduction="sum")
        (loss_sum / num_targets).backward()
    optimizer.step()
    optimizer.zero_grad()
trained = list(model.parameters())
