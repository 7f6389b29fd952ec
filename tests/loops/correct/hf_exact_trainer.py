"""Correct: the Hugging Face Trainer made exact by gradledger, with a model that swallows num_items_in_batch and ignores it."""
import tempfile

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments

from gradledger.integrations.transformers import ExactTrainer


class TinyConfig(PretrainedConfig):
    model_type = "tiny-exact"


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


torch.manual_seed(233)
rows = [{"features": torch.randn(6), "labels": torch.randint(0, 3, ())} for _ in range(29)]
model = Tiny(TinyConfig())
with tempfile.TemporaryDirectory() as out:
    options = dict(report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, num_train_epochs=2)
    args = TrainingArguments(out, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    ExactTrainer(model, args, train_dataset=rows).train()
trained = list(model.parameters())
