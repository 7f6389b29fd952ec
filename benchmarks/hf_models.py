"""Hugging Face's own models under its Trainer: the gradient of a window of 4, against that of the whole batch.

Each architecture is a tiny one of random weights, without dropout, that computes its own loss. Micro-batches are of
equal size and all labels count, so that even a mean of means is right: what is off is off by a factor. Run it as
``python benchmarks/hf_models.py``; the result is kept in ``benchmarks/results/hf_models.json``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import warnings
from typing import Any

import torch
import transformers
from harness import keep, machine
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from gradledger.integrations.transformers import ExactTrainer

STEPS, BATCH_SIZE, LENGTH, VOCABULARY, NUM_CLASSES = 4, 2, 8, 32, 3
Row = dict[str, Tensor]

_SHARED = {"vocab_size": VOCABULARY, "num_labels": NUM_CLASSES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {
    **_SHARED, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "attention_dropout": 0.0}
_GPT2 = {
    **_SHARED, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2,
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop", "classifier_dropout"), 0.0),
}  # fmt: skip
_BART = {
    **_SHARED, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
    "dropout": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
_T5 = {
    **_SHARED, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}  # fmt: skip
_DISTIL = {
    **_SHARED, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0, "attention_dropout": 0.0,
    "max_position_embeddings": 32,
}  # fmt: skip
_VIT = {
    "image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "num_labels": NUM_CLASSES,
}  # fmt: skip

MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "LlamaForCausalLM": ("LlamaConfig", _DECODER, "tokens"),
    "GPT2LMHeadModel": ("GPT2Config", _GPT2, "tokens"),
    "GPT2ForTokenClassification": ("GPT2Config", _GPT2, "classes of tokens"),
    "BertForMaskedLM": ("BertConfig", _ENCODER, "tokens"),
    "BertForTokenClassification": ("BertConfig", _ENCODER, "classes of tokens"),
    "BertForSequenceClassification": ("BertConfig", _ENCODER, "classes"),
    "RobertaForMaskedLM": ("RobertaConfig", _ENCODER, "tokens"),
    "DistilBertForTokenClassification": ("DistilBertConfig", _DISTIL, "classes of tokens"),
    "T5ForConditionalGeneration": ("T5Config", _T5, "tokens"),
    "BartForConditionalGeneration": ("BartConfig", _BART, "tokens"),
    "ViTForImageClassification": ("ViTConfig", _VIT, "images"),
}
"""The configuration, its options, and what the labels are."""


class InOrder(Trainer):
    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class Exact(ExactTrainer, InOrder):
    pass


def rows(kind: str) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for _ in range(STEPS * BATCH_SIZE):
        ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=generator)
        classes = torch.randint(NUM_CLASSES, (LENGTH,), generator=generator)
        pixels = torch.randn(3, 8, 8, generator=generator)
        labels = {"tokens": ids, "classes of tokens": classes}.get(kind, classes[0])
        drawn.append(
            {"pixel_values": pixels, "labels": labels} if kind == "images" else {"input_ids": ids, "labels": labels}
        )
    return drawn


def whole_batch(model: nn.Module, data: list[Row]) -> Tensor:
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    model(**batch).loss.backward()
    return flat(model)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def stepped_with(kind: type[Trainer], model: nn.Module, data: list[Row]) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    seen: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(flat(model)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH_SIZE, gradient_accumulation_steps=STEPS, max_steps=1,
            max_grad_norm=0.0, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False,
        )  # fmt: skip
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        kind(model, arguments, train_dataset=data, optimizers=(optimizer, schedule)).train()
    return seen[0]


def measured(architecture: str, config: str, options: dict[str, Any], kind: str) -> dict[str, dict[str, float]]:
    """The own gradient as a multiple of the whole batch's, and what it is off by beside that, relative to it."""
    torch.manual_seed(0)
    known = getattr(transformers, config)(**options)
    model = getattr(transformers, architecture)(known).eval()
    data = rows(kind)
    right = whole_batch(copy.deepcopy(model), data)
    found = {}
    for name, trainer in (("trainer", InOrder), ("with adapter", Exact)):
        own = stepped_with(trainer, copy.deepcopy(model), data)
        factor = float(own @ right / (right @ right))
        found[name] = {"factor": factor, "rest": float((own - factor * right).norm() / right.norm())}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity(logging.ERROR)
    torch.set_num_threads(1)
    table: dict[str, Any] = {}
    for name, settings in MODELS.items():
        table[name] = measured(name, *settings)
        cells = "   ".join(f"{who} {cell['factor']:.4f} (rest {cell['rest']:.0e})" for who, cell in table[name].items())
        print(f"{name:34} {cells}")
    print(keep("hf_models", {**machine("transformers", "accelerate"), "steps": STEPS, "table": table}))


if __name__ == "__main__":
    main()
