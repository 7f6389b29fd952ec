"""A language model on samples of unlike length: micro-batches padded to their longest, and ours shared out by length.

Four transformer layers, log-normal lengths, effective batches of 64 in micro-batches of 8. ``update`` measures its
token budget, ``windows`` takes the largest micro-batch of the window for it. The HF Trainer runs with and without
grouping by length. Run it as ``python benchmarks/lengths.py``; see ``benchmarks/results/lengths.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from harness import CLOCKS, keep, machine, paired_rounds, ratios_to
from torch import nn

import gradledger

VOCABULARY, WIDTH, MICRO_BATCH, EFFECTIVE, NUM_SAMPLES = 512, 64, 8, 64, 192


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        hidden = self.layers(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        logits = self.head(hidden).flatten(0, 1)
        return {"loss": nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100)}


def make_samples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.randn(NUM_SAMPLES, generator=generator) * 0.7 + 3.6).clamp(4, 256).long()
    ids = [torch.randint(VOCABULARY, (int(n),), generator=generator) for n in lengths]
    return [{"input_ids": each, "labels": each, "attention_mask": torch.ones_like(each)} for each in ids]


samples = make_samples()
PADDING = {"input_ids": 0, "labels": -100, "attention_mask": 0}


def padded(chosen: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        key: nn.utils.rnn.pad_sequence([each[key] for each in chosen], batch_first=True, padding_value=value)
        for key, value in PADDING.items()
    }


def make_model() -> tuple[Language, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Language()
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def num_tokens(batch: dict[str, torch.Tensor]) -> float:
    return float((batch["labels"] != -100).sum())


windows = [samples[at : at + EFFECTIVE] for at in range(0, NUM_SAMPLES, EFFECTIVE)]
micro_batches = [
    [padded(window[at : at + MICRO_BATCH]) for at in range(0, EFFECTIVE, MICRO_BATCH)] for window in windows
]
whole = [padded(window) for window in windows]

Contender = tuple[nn.Module, Callable[[], None]]


def hand_written() -> Contender:
    model, optimizer = make_model()

    def run() -> None:
        for window in micro_batches:
            total = sum(map(num_tokens, window))
            for batch in window:
                (model(**batch)["loss"] * (num_tokens(batch) / total)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return model, run


def ours() -> Contender:
    model, optimizer = make_model()
    accumulator = gradledger.Accumulator(model, optimizer, weight=num_tokens)

    def run() -> None:
        for batch in whole:
            lengths = batch["attention_mask"].sum(1)
            accumulator.update(batch, lambda m, b: m(**b)["loss"], lengths=lengths, cache=False)

    return model, run


def ours_over_loader() -> Contender:
    model, optimizer = make_model()
    accumulator = gradledger.Accumulator(model, optimizer, weight=num_tokens)

    def run() -> None:
        loader = [each for window in micro_batches for each in window]
        options = {"lengths": lambda batch: batch["attention_mask"].sum(1), "padding": PADDING}
        for window in accumulator.windows(loader, steps=EFFECTIVE // MICRO_BATCH, **options):
            with window:
                for batch in window:
                    window.backward(model(**batch)["loss"])

    return model, run


def hugging_face(*, is_grouped: bool) -> Contender:
    from transformers import Trainer, TrainingArguments

    model, optimizer = make_model()
    directory = tempfile.mkdtemp()
    grouping: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if is_grouped else {}
    dataset = [{key: value.tolist() for key, value in each.items()} for each in samples]

    def collate(chosen: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        return padded([{key: torch.tensor(value) for key, value in each.items()} for each in chosen])

    def run() -> None:
        arguments = TrainingArguments(
            directory, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=EFFECTIVE // MICRO_BATCH,
            num_train_epochs=1, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            use_cpu=True, max_grad_norm=0, lr_scheduler_type="constant", **grouping,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=dataset, data_collator=collate, optimizers=(optimizer, None)).train()

    return model, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    makers: dict[str, Callable[[], Contender]] = {
        "hand-written": hand_written,
        "gradledger update": ours,
        "gradledger windows": ours_over_loader,
        "transformers": lambda: hugging_face(is_grouped=False),
        "transformers group_by_length": lambda: hugging_face(is_grouped=True),
    }
    chosen = arguments.only if arguments.only is not None else list(makers)
    contenders = {name: make() for name, make in makers.items() if name in chosen or name == "hand-written"}
    for _, run in contenders.values():
        run()
    weights = {n: torch.cat([p.detach().flatten() for p in model.parameters()]) for n, (model, _) in contenders.items()}
    gaps = {name: float((each - weights["hand-written"]).abs().max()) for name, each in weights.items()}
    runs = {name: run for name, (_, run) in contenders.items()}
    table = ratios_to("hand-written", paired_rounds(runs, num_rounds=arguments.rounds, clock=CLOCKS[arguments.clock]))
    for name, row in table.items():
        row["times_as_fast"] = round(1 / row["ratio"], 3)
        row["largest_weight_difference_after_one_epoch"] = gaps[name]
        print(f"{name:30} {row['times_as_fast']:6.2f} × as fast   {row['median_seconds']:7.3f} s   Δw {gaps[name]:.1e}")
    if arguments.only is None:
        result = {"rounds": arguments.rounds, "clock": arguments.clock, "table": table}
        print(keep("lengths", {**machine("transformers"), **result}))


if __name__ == "__main__":
    main()
