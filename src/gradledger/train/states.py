"""The state of a run, taken where nothing is half done, and gone on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from gradledger.engine.batches.nesting import to_device
from gradledger.errors import UserError
from gradledger.train.loading import set_epoch
from gradledger.train.memory import PeakMemory
from gradledger.train.passes import Clock, Passes
from gradledger.train.progress import Progress
from gradledger.train.redistributing import bare, load_buffers, num_read_anew, passes_of_rank, state_of_rank
from gradledger.train.setup import Setup, set_seed


def state_of(setup: Setup, passes: Passes, progress: Progress, clock: Clock, memory: PeakMemory) -> dict[str, Any]:
    """What a run goes on from; all ranks come here."""
    own = passes.state_dict()
    return {
        "model": bare(setup.model).state_dict(),
        "config": setup.config.model_dump(),
        "passes": own,
        "num_read_together": int(setup.ranks.total("making of a checkpoint", own["num_read"])[0]),
        "progress": progress.state_dict(),
        "clock": clock.state_dict(),
        "memory": memory.state_dict(),
        "of_rank": None if setup.ranks.is_first else state_of_rank(setup.model, own),
    }


def load_state(state: Mapping[str, Any], setup: Setup, passes: Passes, clock: Clock, memory: PeakMemory) -> Progress:
    """Go on from there.

    Returns:
        Where the run stands.

    Raises:
        UserError: The state is not one of this run.
    """
    try:
        has_updates = bool(state["passes"]["accumulator"]["num_updates"])
    except (KeyError, TypeError) as error:
        raise _foreign(error) from error
    if has_updates and isinstance(setup.model, DistributedDataParallel):
        _rehearse(setup)
    try:
        return _load(state, setup, passes, clock, memory)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise _foreign(error) from error


def _foreign(error: Exception) -> UserError:
    return UserError(
        "the checkpoint's files are whole, but its state is not one that this program has written "
        f"({type(error).__name__}: {error}): go on from another checkpoint"
    )


def _load(state: Mapping[str, Any], setup: Setup, passes: Passes, clock: Clock, memory: PeakMemory) -> Progress:
    try:
        bare(setup.model).load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint does not fit the model: {' '.join(str(error).split())}") from None
    progress = Progress.from_state_dict(state["progress"])
    clock.load_state_dict(state["clock"])
    memory.load_state_dict(state["memory"])
    if state["of_rank"] is not None:
        load_buffers(setup.model, state)
    # Last, as nothing may draw from the random generators after it.
    passes.load_state_dict(state["passes"] if state["of_rank"] is None else passes_of_rank(state))
    progress.saved_update = passes.num_updates
    if state["num_ranks"] != setup.ranks.size:
        passes.take_over(num_read_anew(state["num_read_together"], setup.ranks.rank, setup.ranks.size))
        set_seed(setup.config.seed + passes.num_updates, setup.ranks.rank)
    return progress


def _rehearse(setup: Setup) -> None:
    """Run one micro-batch back and forth for nothing, before anything is loaded.

    DDP lays its buckets out anew after its first reduction, and where there are more than two ranks an all-reduce adds
    in an order that hangs on where in a bucket a gradient lies.
    """
    set_epoch(setup.loader, 1)
    inputs, labels = to_device(next(iter(setup.loader)), setup.device)
    setup.loss(setup.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
    setup.optimizer.zero_grad()
