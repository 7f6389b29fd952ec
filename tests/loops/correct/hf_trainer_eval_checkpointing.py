"""Correct: the Hugging Face Trainer with gradient checkpointing, bfloat16, cosine schedule, evaluation each epoch, own metrics."""
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Count(TrainerCallback):
    def __init__(self):
        self.updates = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.updates += 1


def rows(n, seed):
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        ids = torch.randint(1, 40, (10,), generator=g)
        labels = ids.clone()
        labels[: int(torch.randint(1, 6, (), generator=g))] = -100
        out.append({"input_ids": ids, "labels": labels})
    return out


torch.manual_seed(602)
model = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                     num_key_value_heads=1, max_position_embeddings=16))
counter = Count()
with tempfile.TemporaryDirectory() as out:
    args = TrainingArguments(out, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=2, use_cpu=True, bf16=True,
                             gradient_checkpointing=True, lr_scheduler_type="cosine", warmup_steps=1, eval_strategy="epoch", save_strategy="no",
                             report_to="none", logging_steps=1, disable_tqdm=True)
    trainer = Trainer(model=model, args=args, train_dataset=rows(20, 0), eval_dataset=rows(6, 1), callbacks=[counter])
    trainer.train()
assert counter.updates == 6
trained = list(model.parameters())
