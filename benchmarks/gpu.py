"""On a CUDA device: time and peak memory of an update by hand, by Accelerate and by ours, and what ``plan`` says of it.

Two models: a language model that fills the device (12 layers, 512 tokens a sample, bf16-mixed, effective batch 64) and
a small one whose kernels are shorter than their launches. All contenders begin with the same weights, and the weights
that they come to are compared. Run it as ``python benchmarks/gpu.py``; see ``benchmarks/results/gpu.json``.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from harness import RESULTS, keep, machine, paired_rounds, ratios_to
from torch import Tensor, nn

import gradledger

Update = Callable[[], Any]


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before_attention(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.hidden(self.before_hidden(x))


class Language(nn.Module):
    def __init__(self, num_layers: int, width: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, width // 64) for _ in range(num_layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.size(1), device=ids.device)
        return self.head(self.blocks(self.tokens(ids) + self.places(places)))


def loss_fn(model: nn.Module, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


@dataclass(frozen=True)
class Task:
    """A model, an effective batch in pinned host memory, and the micro-batch size of the loops that are given one."""

    num_layers: int
    width: int
    vocabulary: int
    length: int
    effective_batch: int
    micro_batch: int

    def make(self, *, fused: bool | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Language(self.num_layers, self.width, self.vocabulary, self.length).cuda()
        return model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def batch(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.vocabulary, (self.effective_batch, self.length), generator=generator).pin_memory()

    @property
    def steps(self) -> int:
        return self.effective_batch // self.micro_batch


LARGE = Task(num_layers=12, width=768, vocabulary=32_000, length=512, effective_batch=64, micro_batch=4)
SMALL = Task(num_layers=2, width=128, vocabulary=1000, length=32, effective_batch=64, micro_batch=4)

Contender = tuple[nn.Module, Update]


def hand_written(task: Task, *, fused: bool | None = None) -> Contender:
    model, optimizer = task.make(fused=fused)
    batch = task.batch()

    def update() -> None:
        for ids in batch.split(task.micro_batch):
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_fn(model, ids.cuda(non_blocking=True)) / task.steps
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return model, update


def accelerate(task: Task) -> Contender:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=task.steps, mixed_precision="bf16")
    made, optimizer = task.make()
    model, optimizer = accelerator.prepare(made, optimizer)
    batch = task.batch()

    def update() -> None:
        for ids in batch.split(task.micro_batch):
            with accelerator.accumulate(model):
                accelerator.backward(loss_fn(model, ids.cuda(non_blocking=True)))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    return made, update


def accumulating(task: Task, **options: Any) -> tuple[nn.Module, gradledger.Accumulator]:
    model, optimizer = task.make()
    return model, gradledger.Accumulator(
        model, optimizer, precision="bf16-mixed", clip_norm=1.0, device="cuda", **options
    )


def ours_in_windows(task: Task) -> Contender:
    model, accumulator = accumulating(task)
    batch = task.batch()

    def update() -> None:
        for window in accumulator.windows(batch.split(task.micro_batch), steps=task.steps):
            with window:
                for ids in window:
                    window.backward(loss_fn(model, ids))

    return model, update


def ours(task: Task, *, is_auto: bool = False, **options: Any) -> Contender:
    model, accumulator = accumulating(task, **options)
    batch, size = task.batch(), "auto" if is_auto else task.micro_batch
    return model, lambda: accumulator.update(batch, loss_fn, micro_batch_size=size, cache=False)


def makers() -> dict[str, Callable[[Task], Contender]]:
    return {
        "hand-written": hand_written,
        "hand-written, fused": lambda task: hand_written(task, fused=True),
        "accelerate": accelerate,
        "gradledger windows": ours_in_windows,
        "gradledger update": ours,
        "gradledger update, auto": lambda task: ours(task, is_auto=True),
        "gradledger update, cuda_graph": lambda task: ours(task, cuda_graph=True),
        "gradledger update, compile": lambda task: ours(task, compile=True),
        "gradledger update, compile, auto": lambda task: ours(task, is_auto=True, compile=True),
        "gradledger update, checkpointing": lambda task: ours(task, checkpointing=True),
    }


def peak_bytes(update: Update) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    update()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])


def compared(task: Task, *, num_rounds: int) -> dict[str, Any]:
    """Every contender: three updates whose weights are compared, the peak of a fourth beside what lasts, and rounds."""
    updates: dict[str, Update] = {}
    facts: dict[str, dict[str, float]] = {}
    start, expected = flat(task.make()[0]), torch.empty(0)
    for name, make in makers().items():
        gc.collect()
        torch.cuda.empty_cache()
        held, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        model, update = make(task)
        for _ in range(3):
            update()
        weights = flat(model)
        expected = expected if len(expected) else weights
        gap = float((weights - expected).norm()) / float((expected - start).norm())
        lasting = torch.cuda.memory_allocated() - held
        facts[name] = {"gap_to_hand_written": gap, "peak_bytes": lasting + peak_bytes(update)}
        facts[name]["reserved_bytes"] = torch.cuda.memory_reserved() - reserved  # with what a graph keeps to itself
        updates[name] = _synchronized(update)
    for update in updates.values():  # a graph is captured and rehearsed anew after other accumulators were made
        for _ in range(3):
            update()
    table = ratios_to("hand-written", paired_rounds(updates, num_rounds=num_rounds))
    for name, row in table.items():
        row |= facts[name]
        print(
            f"{name:34} {row['ratio']:.3f} × ({row['low_quartile']:.3f}–{row['high_quartile']:.3f})"
            f"  {row['median_seconds'] * 1e3:8.2f} ms   {row['peak_bytes'] / 1e6:8.0f} MB "
            f"({row['reserved_bytes'] / 1e6:.0f} MB reserved)   "
            f"gap {row['gap_to_hand_written']:.1e}"
        )
    return table


def _synchronized(update: Update) -> Update:
    def run() -> None:
        update()
        torch.cuda.synchronize()

    return run


def grown(task: Task, factors: tuple[int, ...] = (1, 4, 16)) -> dict[str, Any]:
    """Peak and time as the effective batch grows at a fixed micro-batch; the batch itself stays in host memory."""
    _model, accumulator = accumulating(task)
    rows = {}
    for factor in factors:
        batch = task.batch().repeat(factor, 1).pin_memory()

        def update(batch: Tensor = batch) -> None:
            accumulator.update(batch, loss_fn, micro_batch_size=task.micro_batch)

        update()
        seconds = paired_rounds({"": _synchronized(update)}, num_rounds=3)[""]
        rows[len(batch)] = {"seconds": min(seconds), "peak_bytes": peak_bytes(update)}
        print(
            f"effective batch {len(batch):6}: {min(seconds) * 1e3:9.2f} ms, peak {rows[len(batch)]['peak_bytes']} bytes"
        )
    return rows


def planned(task: Task, *, num_rounds: int) -> dict[str, Any]:
    """Every row of a plan beside real updates of its size."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model, optimizer = task.make()
    batch = task.batch()
    plan = gradledger.plan(model, loss_fn, batch, optimizer=optimizer, precision="bf16-mixed")
    accumulator = gradledger.Accumulator(model, optimizer, precision="bf16-mixed", device="cuda")
    updates, peaks = {}, {}
    for row in plan.rows:

        def update(size: int = row.micro_batch_size) -> None:
            accumulator.update(batch, loss_fn, micro_batch_size=size)

        update()
        lasting = torch.cuda.memory_allocated() - before
        peaks[row.micro_batch_size] = lasting + peak_bytes(update)
        updates[str(row.micro_batch_size)] = _synchronized(update)
    rounds = paired_rounds(updates, num_rounds=num_rounds)
    seconds = {int(size): min(times) for size, times in rounds.items()}
    assert plan.recommended is not None
    chosen = plan.recommended.micro_batch_size
    rows = {
        row.micro_batch_size: {
            "planned_bytes": row.peak_bytes,
            "real_bytes": peaks[row.micro_batch_size],
            "planned_seconds": row.seconds,
            "real_seconds": seconds[row.micro_batch_size],
        }
        for row in plan.rows
    }
    for size, row in rows.items():
        print(
            f"micro-batch {size:4}: peak planned / real {row['planned_bytes'] / row['real_bytes']:.3f}, seconds "
            f"{row['planned_seconds'] / row['real_seconds']:.3f}{'   recommended' if size == chosen else ''}"
        )
    part = min(seconds.values()) / seconds[chosen]
    print(f"recommended {chosen}: {part:.3f} of the best measured throughput")
    return {"recommended": chosen, "part_of_best_throughput": part, "rows": rows}


PARTS: dict[str, Callable[[int], Any]] = {
    "large": lambda num_rounds: compared(LARGE, num_rounds=num_rounds),
    "small": lambda num_rounds: compared(SMALL, num_rounds=num_rounds),
    "growth": lambda _: grown(LARGE),
    "plans": lambda _: {"large": planned(LARGE, num_rounds=3), "small": planned(SMALL, num_rounds=5)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="measure these parts anew")
    arguments = parser.parse_args()
    path = RESULTS / "gpu.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rounds": {}}
    result |= {**machine("accelerate"), "device": torch.cuda.get_device_name()}
    nn.Linear(8, 8).cuda()(torch.randn(8, 8, device="cuda")).sum().backward()  # libraries take their own memory
    for part in arguments.only:
        result[part] = PARTS[part](arguments.rounds)
        if part in ("large", "small"):
            result["rounds"][part] = arguments.rounds
        print(keep("gpu", result))


if __name__ == "__main__":
    main()
