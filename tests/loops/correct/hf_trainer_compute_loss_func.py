"""Correct: the Trainer with a compute_loss_func that sums and divides by num_items_in_batch."""
import tempfile

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments


class C(PretrainedConfig):
    model_type = "held-out"


class M(PreTrainedModel):
    config_class = C

    def __init__(self, config):
        super().__init__(config)
        self.e, self.o = nn.Embedding(12, 6), nn.Linear(6, 12)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_ids=None, labels=None):
        return {"logits": self.o(self.e(input_ids))}


def token_loss(outputs, labels, num_items_in_batch=None):
    logits = outputs["logits"].flatten(0, 1)
    total = F.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")
    return total / num_items_in_batch


torch.manual_seed(604)
data = []
for n in (2, 6, 3, 8, 5, 4, 7, 1, 6, 6):
    ids = torch.randint(0, 12, (8,))
    labels = ids.clone()
    labels[n:] = -100
    data.append({"input_ids": ids, "labels": labels})
model = M(C())
with tempfile.TemporaryDirectory() as folder:
    options = dict(report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0.0)
    args = TrainingArguments(folder, per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=2, learning_rate=0.01, **options)
    Trainer(model, args, train_dataset=data, compute_loss_func=token_loss).train()
trained = list(model.parameters())
