"""Overhead per micro-batch: the engine and its peers beside the hand-written loop, on a model of almost no work.

Two small linear layers, micro-batches of 16, windows of 4: what is measured is bookkeeping. Run it as
``python benchmarks/overhead.py``; the result is kept in ``benchmarks/results/overhead.json``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from functools import partial

import torch
from harness import keep, machine, paired_rounds, ratios_to
from torch import nn
from torch.utils.data import DataLoader, Dataset

import gradledger

STEPS = 4
NUM_MICRO_BATCHES = 400


class MicroBatches(Dataset):
    """Ready micro-batches, so that no contender pays for loading."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.items = [
            (torch.randn(16, 64, generator=generator), torch.randint(10, (16,), generator=generator))
            for _ in range(NUM_MICRO_BATCHES)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.items[index]


def make_model(fused: bool | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)


criterion = nn.CrossEntropyLoss()


def hand_written(loader: DataLoader, fused: bool | None = None) -> Callable[[], None]:
    model, optimizer = make_model(fused)

    def run() -> None:
        optimizer.zero_grad()
        for i, (inputs, labels) in enumerate(loader):
            loss = criterion(model(inputs), labels) / STEPS
            loss.backward()
            if (i + 1) % STEPS == 0 or (i + 1) == len(loader):
                optimizer.step()
                optimizer.zero_grad()

    return run


def with_gradledger(loader: DataLoader) -> Callable[[], None]:
    model, optimizer = make_model()
    accumulator = gradledger.Accumulator(model, optimizer)

    def run() -> None:
        for window in accumulator.windows(loader, steps=STEPS):
            with window:
                for inputs, labels in window:
                    window.backward(criterion(model(inputs), labels))

    return run


def with_accelerate(loader: DataLoader) -> Callable[[], None]:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=STEPS, cpu=True)
    model, optimizer, prepared = accelerator.prepare(*make_model(), loader)

    def run() -> None:
        for inputs, labels in prepared:
            with accelerator.accumulate(model):
                loss = criterion(model(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()

    return run


def with_fabric(loader: DataLoader) -> Callable[[], None]:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(*make_model())
    prepared = fabric.setup_dataloaders(loader)

    def run() -> None:
        for i, (inputs, labels) in enumerate(prepared):
            is_accumulating = (i + 1) % STEPS != 0
            with fabric.no_backward_sync(model, enabled=is_accumulating):
                fabric.backward(criterion(model(inputs), labels) / STEPS)
            if not is_accumulating:
                optimizer.step()
                optimizer.zero_grad()

    return run


def with_lightning(loader: DataLoader) -> Callable[[], None]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.made = make_model()

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.made

    module = Module()

    def run() -> None:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=STEPS, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", nargs="*", help="contenders beside the hand-written loop")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader = DataLoader(MicroBatches(), batch_size=None)
    makers = {
        "hand-written": hand_written,
        "hand-written, fused optimizer": partial(hand_written, fused=True),
        "gradledger": with_gradledger,
        "fabric": with_fabric,
        "accelerate": with_accelerate,
        "lightning": with_lightning,
    }
    chosen = arguments.only if arguments.only is not None else list(makers)
    contenders = {name: make(loader) for name, make in makers.items() if name in chosen or name.startswith("hand")}
    table = ratios_to("hand-written", paired_rounds(contenders, num_rounds=arguments.rounds))
    for name, row in table.items():
        per_micro_batch = row["median_seconds"] / NUM_MICRO_BATCHES * 1e6
        print(
            f"{name:30} {row['ratio']:.3f} × ({row['low_quartile']:.3f}–{row['high_quartile']:.3f})"
            f"   {per_micro_batch:6.1f} µs per micro-batch"
        )
    if arguments.only is None:
        result = {"steps": STEPS, "num_micro_batches": NUM_MICRO_BATCHES, "rounds": arguments.rounds}
        print(keep("overhead", {**machine("accelerate", "lightning"), **result, "table": table}))


if __name__ == "__main__":
    main()
