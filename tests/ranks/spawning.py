"""Runs many cases in one set of gloo ranks, and plain training on whole batches beside them."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from gradledger.engine.parallel.ranks import leave_groups

# Ranks are forked from a process that has torch loaded and has not used it.
mp.get_context("forkserver").set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "torchmetrics", "rank_cases", "rank_runs"]
)

_DEADLINE_SECONDS = float(os.environ.get("RANKS_DEADLINE", "240"))
"""A case that hangs says where, on each rank, and ends."""

Case = Callable[[int, int], Any]
"""``case(rank, num_ranks)``: its result, or its error's traceback, is brought back from every rank."""


def _run(rank: int, num_ranks: int, folder: str, cases: dict[str, Case]) -> None:
    torch.set_num_threads(1)

    dist.init_process_group("gloo", rank=rank, world_size=num_ranks, init_method=f"file://{folder}/store")
    results = {}
    for name, case in cases.items():
        faulthandler.dump_traceback_later(_DEADLINE_SECONDS, exit=True)
        torch.manual_seed(0)
        try:
            results[name] = case(rank, num_ranks)
        except Exception:
            results[name] = traceback.format_exc()
        torch.save(results, Path(folder, f"{rank}.pt"))
    dist.barrier()
    faulthandler.cancel_dump_traceback_later()
    leave_groups()


def run_on_ranks(num_ranks: int, cases: dict[str, Case]) -> dict[str, list[Any]]:
    """Each case's results, one a rank."""
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with tempfile.TemporaryDirectory() as folder:
            mp.start_processes(_run, (num_ranks, folder, cases), nprocs=num_ranks, start_method="forkserver")
            of_ranks = [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(num_ranks)]
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if previous is not None:
            os.environ["OMP_NUM_THREADS"] = previous
    return {name: [results[name] for results in of_ranks] for name in cases}
