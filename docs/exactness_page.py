"""Writes docs/exactness.md from benchmarks/results/exactness.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"

_INTRODUCTION = """\
# Exactness

This page is written by `python docs/generate.py` from `benchmarks/results/exactness.json`.

The gradient that each tool hands to the optimizer, against the gradient of the whole effective batch in float64: the
largest relative error over the windows of a task. Every tool gets the same micro-batches and the same model, in one run
of `python benchmarks/exactness.py`, and is used as its own documentation shows; *+ adapter* is the same loop with
[`gradledger.integrations`](integrations.md). *Whole batch* is the same gradient computed in one pass in the working
precision: nothing can be expected to be closer.

"""

_TASKS = """
- **uneven samples**: 8 micro-batches of 1 to 8 samples, cross entropy, windows of 4.
- **short last window**: 9 micro-batches of 4, windows of 4: the last window holds one micro-batch.
- **token weights**: sequences of unlike lengths; the loss is a mean over the labels that are not ignored.
- **bfloat16, 1000 micro-batches**: bfloat16 parameters, and every micro-batch adds a thousandth of a gradient of 1.
  Gradledger and its adapters accumulate in float32 (`accumulate_dtype=torch.float32`), which gives {thousand:.4f} of
  it; in bfloat16 the sum stops growing at one half.
- **two optimizers, float16, clipped**: one gradient scaler, two optimizers, each with its own clipping. Accelerate
  refuses float16 on a CPU, so it is told by hand that it has it; that it updates the scaler once per optimizer, and so
  divides the second one's gradient by the scale twice, is its own doing.

The hand-written loop divides each micro-batch's loss by K and also steps on the last, short window. The model of the
Hugging Face Trainer's first rows uses `num_items_in_batch`, as Hugging Face's own models do; *own loss* is a
`compute_loss` that does not, and says so. With a model that takes and ignores it, the gradient is K times as large.

Measured on {date} with torch {torch}, accelerate {accelerate}, lightning {lightning} and transformers {transformers},
on a CPU.

## Hugging Face's own models under its Trainer

The Trainer asks whether a model's `forward` takes `**kwargs`; if so, it believes that the model divides by the
window's number of labels, and divides by nothing itself. Many models take them and return their own mean. The gradient
of a window of 4 micro-batches of equal size, as a multiple of the whole batch's, in one run of
`python benchmarks/hf_models.py` with transformers {transformers}:

{models}
Beside that factor the gradients agree to {rest:.0e}. (GPT-2's loss is over each row's labels but the first; the
Trainer goes by the name of the class and counts all: 7 of 8 here.) [`gradledger audit`](audit.md) reports the factor
of 4 on the line that calls `train()`.

## In float64

The comparison above is in float32, where the whole batch has an error of its own. The test suite holds 44 models and
losses (`tests/zoo`) to their whole batch in float64: parameters after six updates with clipping, uneven micro-batches
and a tail agree to 1e-12, and in float32 no gradient is further off than twice the whole batch's own error.
[`gradledger verify`](verify.md) makes the same comparison on your model.
"""


def exactness_page() -> str:
    """The page."""
    result = json.loads((RESULTS / "exactness.json").read_text(encoding="utf-8"))
    models = json.loads((RESULTS / "hf_models.json").read_text(encoding="utf-8"))["table"]
    thousand = 1.0 - result["table"]["bfloat16, 1000 micro-batches"]["gradledger"]["error"]
    versions = {name: value.partition("+")[0] for name, value in result["versions"].items() if name != "gradledger"}
    rest = max(cell["rest"] for row in models.values() for cell in row.values())
    rows = [
        f"| `{name}` | {row['trainer']['factor']:.3f} | {row['with adapter']['factor']:.3f} |"
        for name, row in models.items()
    ]
    listed = "\n".join(["| | Trainer | with adapter |", "|---|---:|---:|", *rows, ""])
    notes = _TASKS.format(thousand=thousand, date=result["date"], models=listed, rest=rest, **versions)
    return _INTRODUCTION + _table(result["table"]) + notes


def _table(table: dict[str, dict[str, Any]]) -> str:
    tasks = list(table)
    lines = ["| | " + " | ".join(tasks) + " |", "|---|" + "---:|" * len(tasks)]
    for who in table[tasks[0]]:
        lines.append(f"| {who} | " + " | ".join(_cell(table[task][who], who) for task in tasks) + " |")
    return "\n".join(lines) + "\n"


def _cell(cell: dict[str, Any], who: str) -> str:
    if cell["error"] is None:
        return f"({cell['why']})"
    shown = f"{cell['error']:.1e}"
    return f"**{shown}**" if who == "gradledger" or who.endswith("+ adapter") else shown
