"""Correct: a detector returns a dict of losses; their sum is one loss, divided by the window; warm-up in the first epoch."""
import torch
from torch import nn


class ToyDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 10)
        self.cls, self.box = nn.Linear(10, 3), nn.Linear(10, 4)

    def forward(self, images, targets):
        h = torch.relu(self.stem(images))
        return {
            "loss_classifier": nn.functional.cross_entropy(self.cls(h), targets["labels"]),
            "loss_box_reg": nn.functional.smooth_l1_loss(self.box(h), targets["boxes"]),
        }


def train_one_epoch(model, optimizer, data_loader, epoch, accumulate):
    model.train()
    lr_scheduler = None
    if epoch == 0:
        num_updates = len(data_loader) // accumulate
        lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=num_updates)
    for i, (images, targets) in enumerate(data_loader, start=1):
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        (losses / accumulate).backward()
        if i % accumulate == 0:
            optimizer.step()
            if lr_scheduler is not None:
                lr_scheduler.step()
            optimizer.zero_grad()


torch.manual_seed(129)
data = [(torch.randn(4, 6), {"labels": torch.randint(0, 3, (4,)), "boxes": torch.rand(4, 4)}) for _ in range(6)]
model = ToyDetector()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
for epoch in range(2):
    train_one_epoch(model, optimizer, data, epoch, accumulate=3)
trained = list(model.parameters())
