"""Broken: a mean teacher copies the student after each micro-batch, by parameters."""
import copy
import torch
torch.manual_seed(7)
student = torch.nn.Linear(6, 3)
teacher = copy.deepcopy(student)
for p in teacher.parameters():
    p.requires_grad_(False)
optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
accum = 3


def update_teacher(m):
    for ps, pt in zip(student.parameters(), teacher.parameters()):
        pt.data.mul_(m).add_((1 - m) * ps.detach().data)  # expect[audit]: average-per-micro-batch


for i in range(12):
    x = torch.randn(5, 6)
    with torch.no_grad():
        target = teacher(x).softmax(1)
    loss = -(target * student(x).log_softmax(1)).sum(1).mean() / accum
    loss.backward()
    if (i + 1) % accum == 0:
        optimizer.step()
        optimizer.zero_grad()
    update_teacher(0.99)
trained = list(student.parameters())
