"""Broken: a forward that takes **kwargs but ignores num_items_in_batch; the Trainer trusts it and divides by nothing (transformers#37766's kind)."""
import tempfile

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments


class TinyConfig(PretrainedConfig):
    model_type = "tiny-retold"


class Tiny(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(6, 3)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, features=None, labels=None, **kwargs):
        logits = self.head(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset):
    def __init__(self):
        self.x, self.y = torch.randn(32, 6), torch.randint(0, 3, (32,))

    def __len__(self):
        return 32

    def __getitem__(self, i):
        return {"features": self.x[i], "labels": self.y[i]}


torch.manual_seed(212)
model, rows = Tiny(TinyConfig()), Rows()
with tempfile.TemporaryDirectory() as out:
    options = dict(report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, num_train_epochs=1)
    args = TrainingArguments(out, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    Trainer(model, args, train_dataset=rows).train()  # expect: unnormalized-loss
trained = list(model.parameters())
