"""Correct: the Hugging Face Trainer on a tiny language model; it counts the window's tokens itself, the tail included."""
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class Lines(Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(3)
        self.rows = [torch.randint(1, 32, (int(torch.randint(3, 9, (), generator=g)),), generator=g) for _ in range(n)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        ids, labels, mask = torch.zeros(8, dtype=torch.long), torch.full((8,), -100), torch.zeros(8, dtype=torch.long)
        row = self.rows[i]
        ids[: len(row)] = labels[: len(row)] = row
        mask[: len(row)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}


torch.manual_seed(123)
config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=2, gradient_accumulation_steps=3, num_train_epochs=1, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-3,
    )
    Trainer(model=model, args=args, train_dataset=Lines(16)).train()
trained = list(model.parameters())
