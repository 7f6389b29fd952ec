"""Runs many cases in one set of gloo ranks, and plain training on whole batches beside them."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import time
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


def _end(rank: int, num_ranks: int, folder: str, case: Callable[[int, int], None]) -> None:
    sys.stderr = open(Path(folder, f"{rank}.txt"), "w", buffering=1)  # noqa: SIM115  (until the process ends)
    faulthandler.enable(sys.stderr)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks, init_method=f"file://{folder}/store")
    status = 0
    try:
        case(rank, num_ranks)
    except BaseException as error:
        traceback.print_exception(error)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # as a process ends whose connections close


def end_on_ranks(num_ranks: int, case: Callable[[int, int], None]) -> list[tuple[int | None, str]]:
    """How each rank of a case that fails ends: its exit status (None: it had to be ended) and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("forkserver")
        ranks = [context.Process(target=_end, args=(rank, num_ranks, folder, case)) for rank in range(num_ranks)]
        for each in ranks:
            each.start()
        deadline = time.monotonic() + _DEADLINE_SECONDS
        for each in ranks:
            each.join(max(0.0, deadline - time.monotonic()))
        statuses = [each.exitcode for each in ranks]
        for each in ranks:
            each.kill()
            each.join()
            each.close()
        return [(status, Path(folder, f"{rank}.txt").read_text()) for rank, status in enumerate(statuses)]


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
