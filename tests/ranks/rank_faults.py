"""What ranks do when one of them fails, leaves, or asks for what is not exact."""

from __future__ import annotations

import sys
from typing import Any

import torch
from rank_cases import (
    IGNORED,
    Tagger,
    global_windows,
    loaders,
    make,
    replicate,
    shard_whole,
    shard_with_replicas,
    token_mean,
    whole,
)
from torch import nn
from torch.distributed.fsdp import FSDPModule

import gradledger
from engine.oracle import relative_distance, train_on_whole_batches
from gradledger.engine.parallel.older_torch import parameter_groups_of


def accumulate(model: nn.Module, **options: Any) -> gradledger.Accumulator:
    options.setdefault("weight", gradledger.tokens(IGNORED))
    return gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def parameters_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in whole(model).parameters()])


def error_of(run: Any) -> str:
    """The kind and message of the error that ``run()`` raises; nothing where it raises none."""
    try:
        run()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def train(accumulator: gradledger.Accumulator, loader: list[Any], *, on_micro_batch: Any = None) -> list[Any]:
    """One pass; ``on_micro_batch(window number, position, loss)`` may raise, or say what to do with the loss."""
    windows = []
    for number, window in enumerate(accumulator.windows(loader, steps=3)):
        windows.append(window)
        with window:
            for position, (inputs, labels) in enumerate(window):
                loss = token_mean(accumulator.model, inputs, labels)
                told = on_micro_batch(number, position, loss) if on_micro_batch else loss
                if told == "leave":
                    break
                if told == "nothing":
                    continue
                window.backward(loss if told == "leave after" else told)
                if told == "leave after":
                    break
            if on_micro_batch:
                on_micro_batch(number, position + 1, None)
    return windows


class Fault:
    """Rank 1 does something at one micro-batch of the second window; then everybody trains on."""

    def __init__(
        self, fault: Any, *, position: int = 1, wrap: Any = replicate, everywhere: bool = False, **options: Any
    ):
        self.fault = fault
        self.position = position
        self.wrap = wrap
        self.everywhere = everywhere
        self.options = options

    def __call__(self, rank: int, num_ranks: int) -> dict[str, Any]:
        model, plain = make(self.wrap)
        accumulator = accumulate(model, **self.options)
        loader = loaders(num_ranks, lengths=(6, 6, 6))[rank]
        after_first: list[torch.Tensor] = []
        accumulator.on_update(lambda _: after_first.append(parameters_of(model).clone()))

        def on_micro_batch(number: int, position: int, loss: Any) -> Any:
            if number == 1 and position == self.position and (rank == 1 or self.everywhere):
                return self.fault(loss)
            return loss

        windows: list[Any] = []
        error = error_of(lambda: windows.extend(train(accumulator, loader, on_micro_batch=on_micro_batch)))
        unchanged = len(after_first) == 1 and torch.equal(parameters_of(model), after_first[0])
        num_updates = accumulator.num_updates
        train(accumulator, loader)  # the accumulator goes on
        of_ranks = loaders(num_ranks, lengths=(6, 6, 6))
        first, second = global_windows(of_ranks, 3)
        train_on_whole_batches(plain, torch.optim.SGD(plain.parameters(), lr=0.1), [first, first, second], token_mean)
        return {
            "error": error, "unchanged": unchanged, "num_updates": num_updates, "parameters": parameters_of(model),
            "distance": relative_distance(whole(model), plain),
            "skipped": [w.skip_reason for w in windows], "voided": [w.voided for w in windows],
        }  # fmt: skip


def raise_error(loss: Any) -> Any:
    raise ValueError("disk on fire")


def exit_early(loss: Any) -> Any:
    sys.exit(3)


def press_ctrl_c(loss: Any) -> Any:
    raise KeyboardInterrupt


def make_nan(loss: Any) -> Any:
    return loss * float("nan")


def leave(loss: Any) -> str:
    return "leave"


def leave_after_backward(loss: Any) -> str:
    return "leave after"


def do_nothing(loss: Any) -> str:
    return "nothing"


class AfterTheUpdate:
    """Rank 1 fails once the second update is made, in a hook or in the scheduler, or in the optimizer's own step."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, rank: int, num_ranks: int) -> tuple[str, int]:
        model, _ = make(replicate)
        accumulator = accumulate(model)
        is_due = [False]

        def fail(*_: Any) -> None:
            if rank == 1 and is_due[0]:
                is_due[0] = False
                raise ValueError("disk on fire")

        if self.where == "hook":
            accumulator.on_update(fail)
        else:
            accumulator.optimizer.register_step_pre_hook(fail)

        def on_micro_batch(number: int, position: int, loss: Any) -> Any:
            is_due[0] = number == 1
            return loss

        loader = loaders(num_ranks, lengths=(6, 6, 6))[rank]
        error = error_of(lambda: train(accumulator, loader, on_micro_batch=on_micro_batch))
        return error, accumulator.num_updates


class Refused:
    """Errors at the making of an accumulator."""

    def __init__(self, wrap: Any = replicate):
        self.wrap = wrap

    def __call__(self, rank: int, num_ranks: int) -> dict[str, str]:
        model, plain = make(self.wrap)
        batch = loaders(num_ranks)[rank][0]
        adam = torch.optim.Adam(model.parameters())
        half = torch.optim.Adam(list(model.parameters())[:2])
        stray = torch.optim.Adam([*model.parameters(), nn.Parameter(torch.zeros(2))])
        lbfgs = torch.optim.LBFGS(model.parameters())
        sharded = make(shard_whole)[0]
        ready = gradledger.Accumulator(model, adam)
        make_it = gradledger.Accumulator
        return {
            "unwrapped": error_of(lambda: make_it(plain, torch.optim.Adam(plain.parameters()))),
            "alone": error_of(lambda: make_it(plain, torch.optim.Adam(plain.parameters()), sync="none")),
            "wrapped alone": error_of(lambda: make_it(model, adam, sync="none")),
            "comparison": error_of(lambda: make_it(model, adam, compare_ranks_every=-1)),
            "sync": error_of(lambda: make_it(model, adam, sync="often")),
            "half owned": error_of(lambda: make_it(model, half)),
            "stray": error_of(lambda: make_it(model, stray)),
            "closure": error_of(lambda: make_it(model, lbfgs)),
            "offload": error_of(lambda: make_it(model, adam, offload="cpu")),
            "drop": error_of(lambda: make_it(model, adam, non_finite="drop-micro-batch")),
            "coupled": error_of(lambda: ready.update_coupled(batch, token_mean, token_mean, micro_batch_size=2)),
            "auto": error_of(lambda: make_it(sharded, torch.optim.SGD(sharded.parameters())).update(batch, token_mean)),
            "share": error_of(lambda: ready.windows([batch], effective_batch_size=2 * num_ranks + 1)),
        }


class Update:
    """Whole effective batches, a part of each on every rank."""

    def __call__(self, rank: int, num_ranks: int) -> tuple[float, float]:
        model, plain = make(replicate)
        accumulator = accumulate(model)
        parts = loaders(num_ranks)
        for part in parts[rank][:2]:
            update = accumulator.update(part, lambda model, batch: token_mean(model, *batch), micro_batch_size=2)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        batches = [[part[at] for part in parts] for at in range(2)]
        oracle = train_on_whole_batches(plain, optimizer, batches, token_mean)
        return relative_distance(whole(model), plain), abs(update.loss - oracle[1][0])


class BySamples:
    """Windows of an effective batch of both ranks' samples."""

    def __call__(self, rank: int, num_ranks: int) -> list[float]:
        model, _ = make(replicate)
        accumulator = accumulate(model, weight=None)
        loader = [(inputs[:1], labels[:1]) for inputs, labels in loaders(num_ranks, lengths=(6, 6))[rank]]
        weights = []
        for window in accumulator.windows(loader, effective_batch_size=6):
            with window:
                for inputs, _ in window:
                    window.backward(model(inputs).square().mean())
            weights.append(window.weight)
        return weights


class AroundTheWrapper:
    """The loss comes from the module inside the wrapper: refused before anything is reduced."""

    def __call__(self, rank: int, num_ranks: int) -> str:
        model, _ = make(replicate)
        accumulator = accumulate(model)

        def run() -> None:
            for window in accumulator.windows(loaders(num_ranks)[rank], steps=3):
                with window:
                    for inputs, labels in window:
                        window.backward(token_mean(model.module, inputs, labels))

        return error_of(run)


class Drifting:
    """One rank's gradients are changed after the reduction: noticed when ranks are compared next."""

    def __init__(self, change: Any, *, update: int = 0, wrap: Any = replicate, **options: Any) -> None:
        self.change = change
        self.update = update
        self.wrap = wrap
        self.options = options

    def __call__(self, rank: int, num_ranks: int) -> tuple[int, str]:
        model, _ = make(self.wrap)
        accumulator = accumulate(model, **self.options)

        def run() -> None:
            for _ in range(2):
                for window in accumulator.windows(loaders(num_ranks)[rank], steps=3):
                    with window:
                        for inputs, labels in window:
                            window.backward(token_mean(model, inputs, labels))
                        if rank == 1 and accumulator.num_updates == self.update:
                            self.change(whole_gradient(model))

        error = error_of(run)
        return accumulator.num_updates, error


def whole_gradient(model: nn.Module) -> torch.Tensor:
    """The gradient of a parameter, or this rank's part of it."""
    gradient = next(model.parameters()).grad
    assert gradient is not None
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def double(gradient: torch.Tensor) -> None:
    gradient.mul_(2)


def turn(gradient: torch.Tensor) -> None:
    gradient.neg_()


class Costs:
    """What is held in the middle of a window, beside what was stated; for each kind of wrapping and choice."""

    def __call__(self, rank: int, num_ranks: int) -> dict[str, tuple[str, int, int]]:
        found = {}
        for name, wrap in (("ddp", replicate), ("fsdp2", shard_whole), ("hsdp", shard_with_replicas)):
            for sync in ("last", "every"):
                model, _ = make(wrap)
                accumulator = accumulate(model, sync=sync)
                held = before = 0
                for window in accumulator.windows(loaders(num_ranks, lengths=(3,) * num_ranks)[rank], steps=3):
                    with window:
                        for inputs, labels in window:
                            window.backward(token_mean(model, inputs, labels))
                            held, before = held_gradients(model), held
                cost = accumulator.sync_cost
                assert cost is not None
                found[f"{name}, {sync}"] = str(cost), cost.held_bytes, before - cost.gradient_bytes // cost.num_shards
        return found


def held_gradients(model: nn.Module) -> int:
    """The bytes of this rank's gradients, whole ones that wait for their reduction among them."""
    tensors = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for module in model.modules():
        if isinstance(module, FSDPModule):
            for group in parameter_groups_of(module._get_fsdp_state()):
                for parameter in group.fsdp_params:
                    unsharded = getattr(parameter, "_unsharded_param", None)
                    tensors += [parameter.unsharded_accumulated_grad, parameter.sharded_param.grad]
                    tensors += [] if unsharded is None else [unsharded.grad]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors if t is not None]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in local}.values())


class NoData:
    """A rank that never has a micro-batch."""

    def __call__(self, rank: int, num_ranks: int) -> str:
        model, _ = make(replicate)
        accumulator = accumulate(model)
        return error_of(lambda: train(accumulator, loaders(num_ranks)[rank] if rank == 0 else []))


class FailingLoader:
    """A loader that raises on one rank."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, rank: int, num_ranks: int) -> str:
        model, _ = make(replicate)
        accumulator = accumulate(model)

        def loader() -> Any:
            for at, micro_batch in enumerate(loaders(num_ranks)[rank]):
                if rank == 1 and at == 4:
                    raise self.error
                yield micro_batch

        return error_of(lambda: train(accumulator, loader()))


class Switched(Tagger):
    """Uses its hidden layer for some samples only, so that some micro-batches leave it out."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.embed(tokens))
        is_deep = tokens[:, :1, :1] > 0.7
        if is_deep.any():
            hidden = torch.where(is_deep, torch.tanh(self.hidden(hidden)), hidden)
        return self.head(hidden)


class Idle(Tagger):
    """Has a layer that no forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


class Normed(Tagger):
    """Has a buffer, which DDP broadcasts in each window's first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("num_forwards", torch.zeros(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.num_forwards += 1
        return super().forward(tokens)
