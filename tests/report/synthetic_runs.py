"""Run directories made up number by number, for tests that must know what a report has to say."""

import json
import math
import random
from pathlib import Path

from gradledger.ledger import Backward, Clip, EpochEnd, EpochStart, Evaluate, Schedule, Step, Zero, write_ledger

CLASS_NAMES = ["zero", "one", "two", "three"]
SUPPORT = [50, 40, 30, 20]


def write_run(
    directory: Path,
    *,
    num_epochs: int = 10,
    updates_per_epoch: int = 12,
    steps: int = 4,
    micro_batch_size: int = 16,
    fault: str = "",
    class_names: list[str] = CLASS_NAMES,
    finished: bool = True,
    config: str = "model: mlp\nsteps: 4\n",
    seed: int = 0,
    best: float = 0.97,
) -> Path:
    """Write a run of an ordinary shape; ``fault`` is "", "never-zeroed", "unnormalized" or "zeroed-inside"."""
    rng = random.Random(seed)
    directory.mkdir(parents=True)
    entries, records = [], []
    num_updates = num_epochs * updates_per_epoch
    micro_batch = 0
    for epoch in range(num_epochs):
        entries.append(EpochStart(epoch=epoch))
        for position in range(updates_per_epoch):
            update = epoch * updates_per_epoch + position
            tail = position == updates_per_epoch - 1
            sizes = [micro_batch_size] * (steps - (tail and steps > 1))
            if tail and len(sizes) > 1:
                sizes[-1] = micro_batch_size // 2 + 1
            level = 0.05 + 2.25 * math.exp(-3.0 * update / num_updates)
            lr = 0.1 * (1 - update / num_updates)
            losses = []
            for index, size in enumerate(sizes):
                micro_batch += 1
                losses.append(abs(level * (1 + rng.gauss(0, 0.25 / math.sqrt(size / 4)))))
                scale = 1.0 if fault == "unnormalized" else size / sum(sizes)
                entries.append(
                    Backward(
                        micro_batch=micro_batch,
                        update=update,
                        weight=float(size),
                        scale=scale,
                        reduction="mean",
                        loss=losses[-1],
                    )
                )
                if fault == "zeroed-inside" and index < len(sizes) - 1:
                    entries.append(Zero(micro_batch=micro_batch, update=update))
            loss = sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes)
            norm = 1.6 * level * math.exp(rng.gauss(0, 0.2))
            common = {"micro_batch": micro_batch, "update": update}
            entries += [
                Clip(**common, limit=1.0, norm=norm),
                Step(**common, norm=norm, loss=loss),
                Schedule(micro_batch=micro_batch, update=update + 1, lr=lr, scheduler="LinearLR"),
            ]
            if fault != "never-zeroed":
                entries.append(Zero(micro_batch=micro_batch, update=update + 1))
            records.append(
                {"kind": "update", "update": update + 1, "epoch": epoch + 1, "loss": loss,
                 "grad_norm": norm, "lr": lr, "num_samples": sum(sizes), "num_micro_batches": len(sizes),
                 "seconds": (update + rng.random() / 3) * 0.005, "skipped": False}
            )  # fmt: skip
        entries += [EpochEnd(epoch=epoch, update=num_updates), Evaluate(update=(epoch + 1) * updates_per_epoch)]
        records.append(
            evaluation((epoch + 1) * updates_per_epoch, epoch, best - 0.6 * math.exp(-epoch / 2), level + 0.03, SUPPORT)
        )
    if finished:
        records.append(
            {"kind": "summary", "task": "classification",
             "class_names": class_names,
             "effective_batch": {"micro_batch_size": micro_batch_size, "steps": steps, "ranks": 1,
                                 "samples": micro_batch_size * steps},
             "num_updates": num_updates, "num_epochs": num_epochs,
             "seconds": {"total": 8.31, "data": 1.1, "forward_backward": 5.2, "step": 1.3},
             "peak_memory_bytes": 187_654_321,
             "device": "cpu", "versions": {"gradledger": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
             "exit": "finished"}
        )  # fmt: skip
    (directory / "config.yaml").write_text(config, encoding="utf-8")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    write_ledger(entries, directory / "ledger.jsonl")
    return directory


def evaluation(update: int, epoch: int, accuracy: float, loss: float, support: list[int]) -> dict:
    """A validation whose confusion matrix has about this accuracy; wrong ones go to the next class."""
    rows = []
    for index, total in enumerate(support):
        right = round(max(0.0, accuracy) * total)
        row = [0] * len(support)
        row[index] = right
        row[(index + 1) % len(support)] += total - right
        rows.append(row)
    hits = [rows[i][i] for i in range(len(support))]
    predicted = [sum(row[i] for row in rows) for i in range(len(support))]
    recall = [hit / total for hit, total in zip(hits, support, strict=True)]
    precision = [hit / total if total else 0.0 for hit, total in zip(hits, predicted, strict=True)]
    f1 = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True)]
    return {
        "kind": "evaluation", "update": update, "epoch": epoch, "split": "validation", "loss": loss,
        "accuracy": sum(hits) / sum(support), "precision": precision, "recall": recall, "f1": f1,
        "support": support, "confusion": rows, "roc_auc": None, "pr_auc": None,
    }  # fmt: skip


__all__ = ["CLASS_NAMES", "SUPPORT", "evaluation", "write_run"]
