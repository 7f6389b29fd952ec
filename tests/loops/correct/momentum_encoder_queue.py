"""Correct: MoCo with a momentum encoder updated once per training step (no accumulation) before the forward."""
import torch
import torch.nn.functional as F
torch.manual_seed(6)
q, k = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
k.load_state_dict(q.state_dict())
for p in k.parameters():
    p.requires_grad = False
queue = F.normalize(torch.randn(4, 32), dim=0)
opt = torch.optim.SGD(q.parameters(), lr=0.03, momentum=0.9)
ptr = 0
for step in range(6):
    x = torch.randn(8, 8)
    with torch.no_grad():
        for pq, pk in zip(q.parameters(), k.parameters()):
            pk.data = pk.data * 0.9 + pq.data * (1.0 - 0.9)
        keys = F.normalize(k(x + 0.1 * torch.randn_like(x)), dim=1)
    queries = F.normalize(q(x), dim=1)
    l_pos = (queries * keys).sum(1, keepdim=True)
    l_neg = queries @ queue.clone().detach()
    logits = torch.cat([l_pos, l_neg], 1) / 0.07
    loss = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    opt.zero_grad()
    loss.backward()
    opt.step()
    queue[:, ptr:ptr + 8] = keys.T
    ptr = (ptr + 8) % 32
trained = list(q.parameters())
