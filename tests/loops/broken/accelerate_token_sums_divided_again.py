"""Broken: Accelerate's token recipe without its multiplication by the steps: accelerator.backward divides once more."""
import contextlib
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(244)
ga = 4
accelerator = Accelerator(gradient_accumulation_steps=ga, cpu=True)
docs = [torch.randint(1, 15, (int(n),)) for n in torch.randint(2, 12, (26,))]
def collate(rows):
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return {"input_ids": ids, "labels": labels}
model = nn.Sequential(nn.Embedding(15, 6), nn.Linear(6, 15))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(docs, batch_size=2, collate_fn=collate)
criterion = nn.CrossEntropyLoss(ignore_index=-100, reduction="sum")
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(2):
    iterator = iter(loader)
    remainder = len(loader) % ga
    remainder = remainder if remainder != 0 else ga
    total_updates = (len(loader) + ga - 1) // ga
    for update_step in range(total_updates):
        samples = []
        num = ga if update_step != total_updates - 1 else remainder
        for _ in range(num):
            samples += [next(iterator)]
        num_items = sum([(b["labels"].ne(-100)).sum() for b in samples])
        num_items = accelerator.gather(num_items).sum().item()
        losses = []
        for i, b in enumerate(samples):
            ctx = model.no_sync if (i < len(samples) - 1 and accelerator.num_processes > 1) else contextlib.nullcontext
            with ctx():
                logits = model(b["input_ids"])
                loss = criterion(logits.view(-1, 15), b["labels"].view(-1))
                loss = loss * accelerator.num_processes / num_items
                accelerator.backward(loss)  # expect[audit]: double-normalized-loss
                losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
trained = list(model.parameters())
