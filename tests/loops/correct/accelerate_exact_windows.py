"""Correct: Accelerate with gradledger's exact windows around the prepared loader: ragged micro-batches, tokens, a short tail."""
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

import gradledger
from gradledger.integrations.accelerate import ExactWindows

torch.manual_seed(230)


def collate(rows):
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "labels": nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)}


docs = [torch.randint(1, 15, (n,)) for n in (3, 9, 5, 5, 2, 8, 12, 4, 6, 7, 3, 11)]
accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
model = nn.Sequential(nn.Embedding(15, 6), nn.Linear(6, 15))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
loader = DataLoader(docs, batch_size=2, collate_fn=collate)  # 6 micro-batches: windows of 4 and 2
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
batches = ExactWindows(accelerator, loader, weight=gradledger.tokens())

for epoch in range(2):
    for batch in batches:
        with accelerator.accumulate(model):
            logits = model(batch["input_ids"])
            loss = nn.functional.cross_entropy(logits.view(-1, 15), batch["labels"].view(-1), ignore_index=-100)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

trained = list(accelerator.unwrap_model(model).parameters())
