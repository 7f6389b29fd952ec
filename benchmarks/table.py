"""Writes ``docs/benchmarks.md`` from ``benchmarks/results/*.json``: ``python benchmarks/table.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `python benchmarks/table.py` from `benchmarks/results/`. Each result is made by one command,
`python benchmarks/NAME.py`, which runs the peers beside and prints the machine and the versions. Times are medians of
ratios within rounds in which all contenders ran. With `--clock processor` the seconds that the processor gave to the
run are counted, for machines that others use meanwhile.
"""

TITLES = {
    "overhead": "Overhead per micro-batch, on a model of almost no work",
    "epoch": "One epoch of the digits at an effective batch of 64",
    "lengths": "A language model on samples of unlike length",
}


def ratio_table(name: str, result: dict[str, Any]) -> str:
    rows = ["| | times the baseline's time | quartiles | times as fast |", "|---|---|---|---|"]
    for contender, row in result["table"].items():
        low, high = row["low_quartile"], row["high_quartile"]
        rows.append(f"| {contender} | {row['ratio']:.3f} | {low:.3f}–{high:.3f} | {1 / row['ratio']:.2f} |")
    return f"## {TITLES[name]}\n\n" + "\n".join(rows)


def growth_table(result: dict[str, Any]) -> str:
    lines = ["| effective batch | " + " | ".join(result["table"]) + " |", "|---" * (1 + len(result["table"])) + "|"]
    for size in next(iter(result["table"].values())):
        cells = [rows[size] for rows in result["table"].values()]
        shown = (f"{cell['seconds'] * 1e3:.1f} ms, {cell['peak_bytes'] / 1e6:.2f} MB" for cell in cells)
        lines.append(f"| {size} | " + " | ".join(shown) + " |")
    over = result["peak_to_parameters_gradients_state_one_micro_batch"]
    text = (
        f"Time per sample at the largest is {result['time_per_sample_largest_to_second']:.2f} × that at 256, the peak "
        f"{result['peak_largest_to_second']:.3f} ×. The peak is {over:.2f} × parameters + gradients + optimizer state "
        f"+ one micro-batch, and {result['peak_to_hand_written']:.3f} × the hand-written loop's, whose unfused step "
        "makes two tensors of the size of its largest parameter meanwhile."
    )
    micro_batch = result["micro_batch"]
    return f"## Growth at a micro-batch of {micro_batch}: time and peak memory\n\n" + "\n".join(lines) + f"\n\n{text}"


def recovery_table(result: dict[str, Any]) -> str:
    lines = [
        "| | updates lost | samples computed again | times the undisturbed run | Δ weights |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["table"].items():
        cells = row["updates_lost"], row["samples_again"], f"{row['seconds_to_undisturbed']:.2f}"
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {row['largest_weight_difference']:.1e} |")
    title = "Out of memory at update 16 of 20 (Accelerate: `find_executable_batch_size`)"
    return f"## {title}\n\n" + "\n".join(lines)


def saving_table(result: dict[str, Any]) -> str:
    lines = ["| | peak memory | times the plain peak | times the plain update's time |", "|---|---|---|---|"]
    for name, row in result["table"].items():
        lines.append(f"| {name} | {row['peak_bytes'] / 1e6:.1f} MB | {row['peak_ratio']:.2f} | {row['ratio']:.2f} |")
    return "## Activation checkpointing of a small transformer\n\n" + "\n".join(lines)


def planning_table(result: dict[str, Any]) -> str:
    lines = ["| model | recommended micro-batch | part of the best measured throughput |", "|---|---|---|"]
    for name, row in result["table"].items():
        lines.append(f"| {name} | {row['recommended']} | {row['part_of_best_throughput']:.3f} |")
    return "## What `plan` recommends, against real updates of every size\n\n" + "\n".join(lines)


def gpu_tables(result: dict[str, Any]) -> str:
    tasks = {
        "large": "a language model of 12 layers, 512 tokens a sample, bf16-mixed, effective batch 64",
        "small": "a model whose kernels are shorter than their launches, effective batch 64",
    }
    head = ["| | times the hand-written time | quartiles | median | peak | reserved |", "|---|---|---|---|---|---|"]
    sections = []
    for key, title in tasks.items():
        lines = [
            f"| {name} | {row['ratio']:.3f} | {row['low_quartile']:.3f}–{row['high_quartile']:.3f} | "
            f"{row['median_seconds'] * 1e3:.1f} ms | {row['peak_bytes'] / 1e6:.0f} MB | "
            f"{row['reserved_bytes'] / 1e6:.0f} MB |"
            for name, row in result[key].items()
        ]
        sections.append(f"## On a GPU: {title}\n\n" + "\n".join([*head, *lines]))
    rows = [
        f"| {size} | {row['seconds'] * 1e3:.0f} ms | {row['peak_bytes'] / 1e6:.1f} MB |"
        for size, row in result["growth"].items()
    ]
    head = ["| effective batch | time | peak beyond what lasts |", "|---|---|---|"]
    sections.append("## On a GPU: growth of the large one at micro-batches of 4\n\n" + "\n".join([*head, *rows]))
    head = ["| | micro-batch | planned / real peak | planned / real seconds | |", "|---|---|---|---|---|"]
    rows = [
        f"| {name} | {size} | {row['planned_bytes'] / row['real_bytes']:.3f} | "
        f"{row['planned_seconds'] / row['real_seconds']:.2f} | {'recommended' * (int(size) == plan['recommended'])} |"
        for name, plan in result["plans"].items()
        for size, row in plan["rows"].items()
    ]
    sections.append("## On a GPU: what `plan` predicts\n\n" + "\n".join([*head, *rows]))
    return "\n\n".join(sections)


def fuzz_table(result: dict[str, Any]) -> str:
    columns = list(next(iter(result["table"].values())))
    lines = ["| bad | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    sums = {column: sum(row[column] for row in result["table"].values()) for column in columns}
    for name, row in {**result["table"], "**all**": sums}.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:,}" for column in columns) + " |")
    text = f"`make fuzz`, in {result['seconds']} s; [what is counted](bad-input.md)."
    return "## Bad input\n\n" + "\n".join(lines) + f"\n\n{text}"


def faults_table(result: dict[str, Any]) -> str:
    columns = {
        "cases": "cases", "right": "right weights", "refused": "clear refusal", "updates_lost": "updates lost",
        "wrong": "wrong", "hang": "hangs",
    }  # fmt: skip
    lines = ["| fault | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    sums = {column: sum(row[column] for row in result["table"].values()) for column in columns}
    for name, row in {**result["table"], "**all**": sums}.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:,}" for column in columns) + " |")
    return "## Faults (`make faults`, [what is counted](checkpoints.md#what-was-tried))\n\n" + "\n".join(lines)


def machine_line(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    device = f"{result['device']}, " if "device" in result else ""
    return (
        f"*{result['date']}, {device}{result['num_cores']} × {result['processor']}, Python {result['python']}, "
        f"{versions}; {result.get('clock', 'wall')} clock.*"
    )


def page() -> str:
    sections = [HEAD.rstrip()]
    for name in ("overhead", "epoch", "lengths", "growth", "recovery", "saving", "planning", "gpu", "fuzz", "faults"):
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        special = {
            "growth": growth_table,
            "recovery": recovery_table,
            "saving": saving_table,
            "planning": planning_table,
            "gpu": gpu_tables,
            "fuzz": fuzz_table,
            "faults": faults_table,
        }
        body = special[name](result) if name in special else ratio_table(name, result)
        sections += [body, machine_line(result)]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
