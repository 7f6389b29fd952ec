"""Broken: compute_loss returns its own mean, and GPT-2's forward takes **kwargs: the Trainer takes it for scaled and divides by nothing."""
import tempfile
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

class WeightedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1))
        return (loss, outputs) if return_outputs else loss

torch.manual_seed(239)
model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
rows = [{"input_ids": (ids := torch.randint(0, 32, (12,))), "labels": ids.clone()} for _ in range(32)]
with tempfile.TemporaryDirectory() as d:
    args = TrainingArguments(d, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=2, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
    trainer = WeightedTrainer(model=model, args=args, train_dataset=rows)
    trainer.train()  # expect[audit]: unnormalized-loss
trained = list(model.parameters())
