"""Every trainer with its adapter on two ranks, with data of each rank's own: ``python -m`` this, with a folder.

Ranks are forked once the trainers are imported, which takes longer than all that they do.
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

import gradledger
from gradledger.integrations import accelerate, fabric
from gradledger.integrations.auditing import audited
from integrations import trainers
from integrations.tasks import (
    CLIP_NORM,
    STEPS,
    TASKS,
    Run,
    Task,
    made,
    micro_batches,
    optimizer_of,
    schedule_of,
    whole_batches,
)

NUM_RANKS = 2
OF_RANKS = [micro_batches(seed=1), micro_batches((2, 3, 1, 4, 2, 6, 1, 1), seed=2)]
UNEVEN = [OF_RANKS[0], OF_RANKS[1][:5]]  # in the last window the second rank has none

DEALT = [each for pair in zip(*OF_RANKS, strict=True) for each in pair]


def on_rank(name: str, rank: int, of_ranks: list[Any] = OF_RANKS) -> Task:
    return dataclasses.replace(TASKS[name], micro_batches=of_ranks[rank])


def compared(name: str, run: Run, of_ranks: list[Any] = OF_RANKS) -> dict[str, Any]:
    expected = whole_batches(TASKS[name], of_ranks)
    norms = max(abs(own / right - 1.0) for own, right in zip(run.norms, expected.norms, strict=True))
    losses = [abs(own / right - 1.0) for own, right in zip(run.losses, expected.losses, strict=False)]
    return {"norms": norms, "parameters": run.distance(expected), "losses": max(losses, default=0.0)}


def with_accelerate(rank: int) -> dict[str, Any]:
    """Accelerate deals micro-batches out to the ranks by turns; 13 are 7 and 6."""
    dealt = DEALT[:13]
    run = trainers.with_accelerate(dataclasses.replace(TASKS["tokens"], micro_batches=dealt), exact=True)
    return compared("tokens", run, [dealt[0::2], dealt[1::2]])


def with_fabric(rank: int) -> dict[str, Any]:
    task = on_rank("tokens, own sum", rank, UNEVEN)
    return compared("tokens, own sum", trainers.with_fabric(task, exact=True, strategy="ddp", devices=2), UNEVEN)


def with_fabric_and_shards(rank: int) -> dict[str, Any]:
    """FSDP2, by the only way that Fabric has to it on a CPU."""
    task, norms = on_rank("tokens, own sum", rank, UNEVEN), []
    strategy = ModelParallelStrategy(shard, data_parallel_size=NUM_RANKS, tensor_parallel_size=1)
    own = Fabric(accelerator="cpu", devices=NUM_RANKS, strategy=strategy)
    own.launch()
    model = own.setup_module(made())
    plain_optimizer = optimizer_of(model)
    schedule, optimizer = schedule_of(plain_optimizer), own.setup_optimizers(plain_optimizer)
    batches = fabric.ExactWindows(own, task.micro_batches, steps=STEPS, weight=task.weight)
    for _ in range(2):
        for micro_batch in batches:
            with own.no_backward_sync(model, enabled=batches.is_accumulating):
                batches.backward(task.of(model, micro_batch))
            if not batches.is_accumulating:
                norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM).full_tensor().item())
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    whole = made()
    for parameter, sharded in zip(whole.parameters(), model.parameters(), strict=True):
        parameter.data = sharded.full_tensor().detach()
    return compared("tokens, own sum", Run(whole, [], norms), UNEVEN)


def shard(model: Any, mesh: Any) -> Any:
    fully_shard(model.hidden, mesh=mesh["data_parallel"])
    return fully_shard(model, mesh=mesh["data_parallel"])


def with_lightning(rank: int) -> dict[str, Any]:
    task = on_rank("tokens, own sum", rank)
    options = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
    return compared("tokens, own sum", trainers.with_lightning(task, exact=True, **options))


def with_hf_trainer(rank: int) -> dict[str, Any]:
    """The Trainer deals micro-batches out to the ranks by turns."""
    task = dataclasses.replace(TASKS["tokens"], micro_batches=DEALT)
    return compared("tokens", trainers.with_hf_trainer(task, exact=True))


def one_rank_cannot_count(rank: int) -> str:
    accelerator = trainers.new_accelerator(gradient_accumulation_steps=3)
    batches = accelerate.ExactWindows(accelerator, OF_RANKS[rank], weight=lambda _: (1.0, math.nan)[rank])
    try:
        next(iter(batches))
    except gradledger.UserError as error:
        return str(error)
    return ""


def audited_together(rank: int) -> list[str]:
    """Only the second rank forgets to zero; both know, the first one tells."""
    told: list[Any] = []

    class Log:
        def log(self, numbers: Any) -> None:
            told.append(numbers)

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with audited(Log()) as audit:
        for x in torch.ones(3, 4, 2):
            model(x).mean().backward()
            optimizer.step()
            if rank == 0:
                optimizer.zero_grad()
    return [*(finding.rule for finding in audit.findings), *map(str, told)]


CASES: dict[str, Callable[[int], Any]] = {
    "accelerate": with_accelerate,
    "fabric": with_fabric,
    "fabric, sharded": with_fabric_and_shards,
    "lightning": with_lightning,
    "hf trainer": with_hf_trainer,
    "one rank cannot count": one_rank_cannot_count,
    "audited together": audited_together,
}


def run_rank(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=NUM_RANKS, init_method=f"file://{folder}/store")
    results = {}
    for name, case in CASES.items():
        try:
            results[name] = case(rank)
        except BaseException:
            results[name] = traceback.format_exc()
        torch.save(results, Path(folder, f"{rank}.pt"))


def main(folder: str) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        WORLD_SIZE=str(NUM_RANKS), LOCAL_WORLD_SIZE=str(NUM_RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = []
    for rank in range(NUM_RANKS):
        child = os.fork()
        if child == 0:
            run_rank(rank, folder)
            sys.stdout.flush()
            os._exit(0)
        ranks.append(child)
    return max(os.waitpid(child, 0)[1] for child in ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
