"""Broken: a Trainer subclass with its own compute_loss that returns a plain mean, although the Trainer expects the window's share."""
import tempfile

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


class SmoothTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
        return (loss, outputs) if return_outputs else loss


torch.manual_seed(607)
model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
data = [{"input_ids": ids, "labels": ids.clone()} for ids in torch.randint(0, 20, (16, 8))]
with tempfile.TemporaryDirectory() as folder:
    options = dict(report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True)
    args = TrainingArguments(folder, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1, **options)
    SmoothTrainer(model=model, args=args, train_dataset=data).train()  # expect[audit]: unnormalized-loss
trained = list(model.parameters())
