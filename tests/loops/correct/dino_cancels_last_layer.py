"""Correct: DINO: the last layer's gradient is cancelled (`p.grad = None`) before the step during the first epoch; teacher follows by average."""
import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(12)
student = nn.Sequential()
student.add_module("backbone", nn.Sequential(nn.Linear(8, 16), nn.GELU()))
student.add_module("last_layer", nn.Linear(16, 10, bias=False))
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
center, freeze_last_layer, iters, accum = torch.zeros(10), 1, 4, 2


def cancel_gradients_last_layer(epoch, model, freeze_last_layer):
    if epoch >= freeze_last_layer:
        return
    for n, p in model.named_parameters():
        if "last_layer" in n:
            p.grad = None


for epoch in range(3):
    for it in range(iters):
        optimizer.zero_grad()
        for _ in range(accum):
            x = torch.randn(6, 8)
            crops = [x + 0.1 * torch.randn_like(x) for _ in range(4)]
            with torch.no_grad():
                t_out = [F.softmax((teacher(c) - center) / 0.04, dim=-1) for c in crops[:2]]
            s_out = [student(c) / 0.1 for c in crops]
            total, n_terms = 0, 0
            for iq, q in enumerate(t_out):
                for v in range(len(s_out)):
                    if v == iq:
                        continue
                    total += torch.sum(-q * F.log_softmax(s_out[v], dim=-1), dim=-1).mean()
                    n_terms += 1
            loss = total / n_terms / accum
            loss.backward()
            with torch.no_grad():
                center = center * 0.9 + torch.cat([teacher(c) for c in crops[:2]]).mean(0) * 0.1
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        cancel_gradients_last_layer(epoch, student, freeze_last_layer)
        optimizer.step()
        with torch.no_grad():
            for ps, pt in zip(student.parameters(), teacher.parameters()):
                pt.data.mul_(0.996).add_((1 - 0.996) * ps.detach().data)
trained = list(student.parameters())
