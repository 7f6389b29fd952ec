"""One epoch of the digits at an effective batch of 64: hand-written 16 × 4, the peers, and ours from whole batches.

All see the same samples in the same order; ours hands each effective batch to ``update``, which chooses the micro-batch
size. The pieces are ready in memory, so that training and not loading is compared. Run it as
``python benchmarks/epoch.py``; the result is kept in ``benchmarks/results/epoch.json``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from harness import CLOCKS, keep, machine, paired_rounds, ratios_to
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import gradledger

MICRO_BATCH, STEPS = 16, 4


class Pieces(Dataset):
    """The digits in ready pieces of a size, in one order."""

    def __init__(self, size: int) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
        self.items = list(zip(inputs.split(size), torch.tensor(digits.target)[order].split(size), strict=True))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.items[index]


NUM_SAMPLES = len(load_digits().target)
criterion = nn.CrossEntropyLoss()


def loader_of(size: int, **options: Any) -> DataLoader:
    return DataLoader(Pieces(size), batch_size=None, **options)


def make_model(fused: bool | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)


Contender = tuple[nn.Module, Callable[[], None]]


def hand_written(fused: bool | None = None) -> Contender:
    model, optimizer = make_model(fused)
    loader = loader_of(MICRO_BATCH)

    def run() -> None:
        waiting = NUM_SAMPLES
        optimizer.zero_grad()
        for i, (inputs, labels) in enumerate(loader):
            window = min(MICRO_BATCH * STEPS, waiting)
            loss = criterion(model(inputs), labels) * (len(labels) / window)
            loss.backward()
            if (i + 1) % STEPS == 0 or (i + 1) == len(loader):
                optimizer.step()
                optimizer.zero_grad()
                waiting -= window

    return model, run


def ours() -> Contender:
    model, optimizer = make_model()
    accumulator = gradledger.Accumulator(model, optimizer)
    loader = loader_of(MICRO_BATCH * STEPS)

    def loss_fn(model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return criterion(model(batch[0]), batch[1])

    def run() -> None:
        for batch in loader:
            accumulator.update(batch, loss_fn, cache=False)

    return model, run


def accelerate() -> Contender:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=STEPS, cpu=True)
    made, optimizer = make_model()
    model, optimizer, loader = accelerator.prepare(made, optimizer, loader_of(MICRO_BATCH))

    def run() -> None:
        for inputs, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(criterion(model(inputs), labels))
                optimizer.step()
                optimizer.zero_grad()

    return made, run


def lightning() -> Contender:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.made = make_model()

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.made

    module, loader = Module(), loader_of(MICRO_BATCH)

    def run() -> None:
        lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=STEPS, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(module, loader)  # fmt: skip

    return module.model, run


def hugging_face() -> Contender:
    from transformers import Trainer, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.made = make_model()

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": criterion(self.model(inputs), labels)}

    class Plain(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return loader_of(MICRO_BATCH, collate_fn=lambda pair: {"inputs": pair[0], "labels": pair[1]})

    wrapped = Wrapped()
    directory = tempfile.mkdtemp()

    def run() -> None:
        arguments = TrainingArguments(
            directory, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=STEPS, num_train_epochs=1,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0,
            lr_scheduler_type="constant",
        )  # fmt: skip
        Plain(wrapped, arguments, train_dataset=Pieces(MICRO_BATCH), optimizers=(wrapped.made, None)).train()

    return wrapped.model, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="contenders beside the hand-written loop")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    makers = {
        "hand-written 16 × 4": hand_written,
        "hand-written 16 × 4, fused": partial(hand_written, fused=True),
        "gradledger": ours,
        "accelerate": accelerate,
        "lightning": lightning,
        "transformers": hugging_face,
    }
    chosen = arguments.only if arguments.only is not None else list(makers)
    contenders = {n: make() for n, make in makers.items() if n in chosen or n.startswith("hand")}
    for _, run in contenders.values():  # one epoch from the same start
        run()
    weights = {n: torch.cat([p.detach().flatten() for p in model.parameters()]) for n, (model, _) in contenders.items()}
    baseline = next(iter(makers))
    gaps = {name: float((each - weights[baseline]).abs().max()) for name, each in weights.items()}
    runs = {name: run for name, (_, run) in contenders.items()}
    seconds = paired_rounds(runs, num_rounds=arguments.rounds, clock=CLOCKS[arguments.clock])
    table = ratios_to(baseline, seconds)
    for name, row in table.items():
        row["times_as_fast"] = round(1 / row["ratio"], 3)
        row["largest_weight_difference_after_one_epoch"] = gaps[name]
        times = f"{row['times_as_fast']:6.2f} × as fast   {row['median_seconds'] * 1e3:7.1f} ms"
        print(f"{name:28} {times}   Δw {gaps[name]:.1e}")
    if arguments.only is None:
        result = {
            "effective_batch": MICRO_BATCH * STEPS,
            "rounds": arguments.rounds,
            "clock": arguments.clock,
            "table": table,
        }
        print(keep("epoch", {**machine("accelerate", "lightning", "transformers"), **result, "table": table}))


if __name__ == "__main__":
    main()
