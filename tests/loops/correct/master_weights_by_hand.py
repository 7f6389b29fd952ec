"""Correct: master weights in float32 with a half-precision copy of the model and a static loss scale (apex O2 style)."""
import torch
torch.manual_seed(10)
model = torch.nn.Linear(4, 2).to(torch.bfloat16)
master = [p.detach().clone().float().requires_grad_() for p in model.parameters()]
opt = torch.optim.SGD(master, lr=0.1)
S, K = 128.0, 2
for i in range(8):
    x, y = torch.randn(4, 4, dtype=torch.bfloat16), torch.randint(2, (4,))
    loss = torch.nn.functional.cross_entropy(model(x).float(), y)
    (loss * S / K).backward()
    for m, p in zip(master, model.parameters()):
        g = p.grad.float() / S
        m.grad = g if m.grad is None else m.grad + g
        p.grad = None
    if (i + 1) % K == 0:
        opt.step()
        opt.zero_grad()
        with torch.no_grad():
            for m, p in zip(master, model.parameters()):
                p.copy_(m)
trained = master
