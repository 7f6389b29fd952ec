"""Trains an entry of the zoo twice, by whole batches with plain torch and by micro-batches with the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradledger import Accumulator
from gradledger.verifier.pinning import PinnedCalls, RandomCalls, layouts_of
from zoo.entries import Entry

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


class Animal:
    """An entry in one precision, with random numbers pinned to samples where it draws any."""

    def __init__(self, entry: Entry, dtype: torch.dtype, seed: int = 0) -> None:
        self.entry, self.dtype, self.seed = entry, dtype, seed
        self.reduction = entry.settings.get("reduction", "mean")
        self.layouts: Any = None
        if entry.is_random:
            shapes = [self._shapes(num_samples) for num_samples in (12, 4)]
            self.layouts = layouts_of(*shapes, 12, 4)
            assert self.layouts, f"random calls {shapes} cannot be pinned"

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return self.entry.make().to(self.dtype)

    def draw(self, num_samples: int, seed: int) -> tuple[Tensor, ...]:
        leaves = self.entry.draw(torch.Generator().manual_seed(seed), num_samples)
        return tuple(leaf.to(self.dtype) if leaf.is_floating_point() else leaf for leaf in leaves)

    def losses(self, model: nn.Module, batch: Any, window: int, first: int) -> dict[str | None, Tensor]:
        """The losses of the samples from place ``first`` in a window, by unit."""
        with self._pinned(window, first, len(batch[0])):
            losses = self.entry.loss_fn(model, batch)
        return dict(losses) if isinstance(losses, dict) else {None: losses}

    def whole_gradient(self, model: nn.Module, batch: Any, window: int = 0) -> None:
        """Leave the whole batch's gradient in ``.grad``, by a plain backward."""
        model.zero_grad()
        loss = sum(self.losses(model, batch, window, 0).values())
        if self.reduction == "sum":
            weight = self.entry.settings.get("weight")
            loss = loss / (len(batch[0]) if weight is None else weight(batch))
        loss.backward()

    def accumulator(self, model: nn.Module, optimizer: Any, **options: Any) -> Accumulator:
        return Accumulator(model, optimizer, weight=self.entry.settings.get("weight"), **options)

    def run_window_late(self, model: nn.Module, window: Any, index: int) -> None:
        """The same with weights that are known only after the forward."""
        first, weight = 0, self.entry.settings.get("weight") or (lambda batch: len(batch[0]))
        with window:
            for micro_batch in window:
                (loss,) = self.losses(model, micro_batch, index, first).values()
                window.backward(loss, weight=weight(micro_batch), reduction=self.reduction)
                first += len(micro_batch[0])

    def run_window(self, model: nn.Module, window: Any, index: int) -> None:
        first = 0
        with window:
            for micro_batch in window:
                losses = self.losses(model, micro_batch, index, first)
                for at, (unit, loss) in enumerate(losses.items(), start=1):
                    if unit != "window" or first == 0:
                        window.backward(loss, per=unit, reduction=self.reduction, retain_graph=at < len(losses))
                first += len(micro_batch[0])

    def _shapes(self, num_samples: int) -> list[Any]:
        calls, model, batch = RandomCalls(), self.model(), self.draw(num_samples, 0)
        with calls:
            self.entry.loss_fn(model, batch)
        return calls.shapes

    @contextmanager
    def _pinned(self, window: int, first: int, num_samples: int) -> Iterator[None]:
        pinned: Any = nullcontext()
        if self.layouts:
            pinned = PinnedCalls(self.layouts, seed=window, first_sample=first, num_samples=num_samples)
        with pinned:
            yield


def distance_after_training(
    entry: Entry, optimizer: str, clip_norm: float | None, sizes: tuple[int, ...], *, is_late: bool = False
) -> float:
    """Relative distance of the parameters after two passes in windows of three micro-batches, the last one short."""
    animal = Animal(entry, torch.float64)
    ours, theirs = animal.model(), animal.model()
    optimizers = [OPTIMIZERS[optimizer]([p for p in m.parameters() if p.requires_grad]) for m in (ours, theirs)]
    data = [animal.draw(size, seed) for seed, size in enumerate(sizes)]
    accumulator = animal.accumulator(ours, optimizers[0], clip_norm=clip_norm)
    index = 0
    for _ in range(2):
        for window in accumulator.windows(data, steps=3):
            (animal.run_window_late if is_late else animal.run_window)(ours, window, index)
            index += 1
    index = 0
    for _ in range(2):
        for start in range(0, len(data), 3):
            batch = tuple(torch.cat(leaves) for leaves in zip(*data[start : start + 3], strict=True))
            animal.whole_gradient(theirs, batch, index)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            optimizers[1].step()
            index += 1
    assert accumulator.num_updates == index
    flat = [torch.cat([p.detach().reshape(-1) for p in m.parameters()]) for m in (ours, theirs)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def errors_in(entry: Entry, dtype: torch.dtype, *, num_batches: int = 6, **options: Any) -> tuple[float, float]:
    """Errors of the engine's and of the whole batch's gradient in a precision, against the whole batch in float64.

    Taken together over several batches: one batch's own error may be small by luck.
    """
    exact, low = Animal(entry, torch.float64), Animal(entry, dtype)
    ours = theirs = 0.0
    for seed in range(num_batches):
        reference, whole, split = exact.model(), low.model(), low.model()
        reference.load_state_dict({k: v.to(reference.state_dict()[k].dtype) for k, v in whole.state_dict().items()})
        batch = low.draw(23, seed)
        exact.whole_gradient(reference, tuple(b.double() if b.is_floating_point() else b for b in batch))
        low.whole_gradient(whole, batch)
        kept: dict[str, Tensor] = {}
        optimizer = torch.optim.SGD([p for p in split.parameters() if p.requires_grad], lr=0.0)
        optimizer.register_step_pre_hook(
            lambda *_, m=split, k=kept: k.update(
                {n: p.grad.double() for n, p in m.named_parameters() if p.requires_grad}
            )
        )
        accumulator = low.accumulator(split, optimizer, **options)
        micro_batches = [tuple(leaf[at : at + 4] for leaf in batch) for at in range(0, 23, 4)]
        for window in accumulator.windows(micro_batches, steps=6):
            low.run_window(split, window, 0)
        right = torch.cat([p.grad.reshape(-1) for p in reference.parameters() if p.requires_grad])
        own = torch.cat([p.grad.double().reshape(-1) for p in whole.parameters() if p.requires_grad])
        engine = torch.cat([kept[n].reshape(-1) for n, p in split.named_parameters() if p.requires_grad])
        ours += float((engine - right).norm() / right.norm()) ** 2
        theirs += float((own - right).norm() / right.norm()) ** 2
    return (ours / num_batches) ** 0.5, (theirs / num_batches) ** 0.5
