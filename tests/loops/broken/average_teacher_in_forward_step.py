"""Broken: a self-distillation teacher follows the student in each micro-batch's forward (lightly-train#968)."""
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Distiller:
    def __init__(self, student, steps_per_update):
        self.student = student
        self.teacher = AveragedModel(student, avg_fn=lambda avg, new, num: 0.9 * avg + 0.1 * new)
        self.n = steps_per_update
        self.opt = torch.optim.SGD(student.parameters(), lr=0.05)

    def micro_step(self, view_a, view_b):
        self.teacher.update_parameters(self.student)  # expect: average-per-micro-batch
        with torch.no_grad():
            target = torch.softmax(self.teacher(view_a), dim=-1)
        loss = nn.functional.cross_entropy(self.student(view_b), target)
        (loss / self.n).backward()

    def update(self):
        self.opt.step()
        self.opt.zero_grad()


torch.manual_seed(80)
d = Distiller(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), steps_per_update=3)
for images in torch.randn(4, 3, 5, 6):
    for x in images:
        d.micro_step(x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x))
    d.update()
trained = [*d.student.parameters(), *d.teacher.module.parameters()]
