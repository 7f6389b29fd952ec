"""Broken: the Hugging Face Trainer on a stream without a length: an epoch's last 2 micro-batches wait for the next epoch's window."""
import tempfile
import torch
from torch.utils.data import IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

class Stream(IterableDataset):
    def __iter__(self):
        g = torch.Generator().manual_seed(3)
        for _ in range(20):
            ids = torch.randint(0, 32, (12,), generator=g)
            yield {"input_ids": ids, "labels": ids.clone()}

torch.manual_seed(240)
model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
with tempfile.TemporaryDirectory() as d:
    args = TrainingArguments(d, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=8, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
    Trainer(model=model, args=args, train_dataset=Stream()).train()  # expect[audit]: leaked-tail
trained = list(model.parameters())
