"""Correct: double DQN with a target network, soft updates per optimizer step, gradient value clipping."""
import random
from collections import deque, namedtuple
import torch
import torch.nn as nn
import torch.nn.functional as F

random.seed(3)
torch.manual_seed(3)
Transition = namedtuple("Transition", "s a r s2 d")


class QNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.l2 = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.l2(F.relu(self.l1(x)))


policy_net, target_net = QNet(), QNet()
target_net.load_state_dict(policy_net.state_dict())
optimizer = torch.optim.AdamW(policy_net.parameters(), lr=1e-3, amsgrad=True)
memory = deque([], maxlen=200)
TAU = 0.05


def optimize_model():
    if len(memory) < 16:
        return
    batch = Transition(*zip(*random.sample(memory, 16)))
    s, s2 = torch.stack(batch.s), torch.stack(batch.s2)
    a, r, d = torch.tensor(batch.a), torch.tensor(batch.r), torch.tensor(batch.d)
    q = policy_net(s).gather(1, a[:, None]).squeeze(1)
    with torch.no_grad():
        best = policy_net(s2).argmax(1, keepdim=True)
        target = r + 0.9 * (1 - d) * target_net(s2).gather(1, best).squeeze(1)
    loss = nn.SmoothL1Loss()(q, target)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(policy_net.parameters(), 100)
    optimizer.step()


for i_episode in range(3):
    state = torch.randn(4)
    for t in range(12):
        with torch.no_grad():
            action = int(policy_net(state[None]).argmax()) if random.random() > 0.2 else random.randrange(2)
        nxt = state * 0.8 + torch.randn(4) * 0.2
        memory.append(Transition(state, action, float(nxt.sum() > 0), nxt, float(t == 11)))
        state = nxt
        optimize_model()
        tsd, psd = target_net.state_dict(), policy_net.state_dict()
        for key in psd:
            tsd[key] = psd[key] * TAU + tsd[key] * (1 - TAU)
        target_net.load_state_dict(tsd)
trained = list(policy_net.parameters())
