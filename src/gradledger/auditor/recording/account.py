"""What the auditor knows of one optimizer's gradients: which tensor each ``.grad`` is, and its version.

A gradient tensor's version goes up with every change in place, so identity and version before and after an event tell
who changed what, with no copy and no look at any value.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

import torch

from gradledger.ledger import Location

_gradient_of = vars(torch._C.TensorBase)["grad"].__get__
_version_of = attrgetter("_version")
NO_GRADIENT = (id(None), 0)

ChangeKind = Literal["zero", "scale", "write"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something done to one ``.grad`` by hand.

    Args:
        kind: ``zero``: nothing is left; ``scale``: multiplied by ``factor``; ``write``: anything else.
        factor: What it was multiplied by, where known.
        location: The line.
        bumps_version: Done in place on the gradient itself, so that its version went up by one.
        replaces: The gradient was set to another tensor.
    """

    kind: ChangeKind
    factor: float | None = None
    location: Location | None = None
    bumps_version: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened by hand to an account's gradients since the last look.

    Args:
        zeroed: Some gradients were emptied.
        voided: Some were replaced by tensors written by hand.
        adjusted: Some were changed.
        factor: What all of them were multiplied by, where that is all that happened.
        location: The line.
    """

    zeroed: bool = False
    voided: bool = False
    adjusted: bool = False
    factor: float | None = None
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Occasion:
    """Under what circumstances gradients were zeroed.

    Args:
        location: The line.
        left_loop: The program had left the loop over micro-batches.
        given_up: What was held was given up on purpose: by the engine, or after an exception.
    """

    location: Location | None
    left_loop: bool = False
    given_up: bool = False


@dataclass(slots=True, eq=False)
class Account:
    """The gradients of one optimizer's parameters.

    Args:
        key: A name that is unique in this audit.
        name: The variable that the optimizer was assigned to, for reports.
        optimizer: The optimizer, held weakly.
        is_open: There was a backward since the last step.
        lines_of_micro_batch: The lines of the present micro-batch's backward calls: one more line is another term.
        handled_exception: What ``except`` block the last backward took place in.
        first_change: When gradients were first changed by hand since the last event.
    """

    key: str
    name: str
    optimizer: weakref.ref[Any]
    parameters: list[torch.Tensor] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    identities: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    ever: list[bool] = field(default_factory=list)
    changes: dict[int, list[Change]] = field(default_factory=dict)
    num_micro_batches: int = 0
    num_updates: int = 0
    is_open: bool = False
    lines_of_micro_batch: set[Location | None] = field(default_factory=set)
    weight_marks: tuple[tuple[int, int, int], ...] = ()
    weights_touched: bool = False
    averaged: set[int] = field(default_factory=set)
    averaged_at: Location | None = None
    evaluated_at: Location | None = None
    in_epoch: bool = False
    thread: int | None = None
    is_sharded: bool = False
    is_used: bool = False
    handled_exception: int = 0
    first_change: Occasion | None = None

    def refresh(self) -> bool:
        """Take in parameters that were added to the optimizer; whether there were any."""
        optimizer = self.optimizer()
        groups = optimizer.param_groups if optimizer is not None else []
        if sum(len(group["params"]) for group in groups) == len(self.parameters):
            return False
        added = [p for group in groups for p in group["params"] if id(p) not in self.positions]
        for parameter in added:
            self.positions[id(parameter)] = len(self.parameters)
            self.parameters.append(parameter)
            identity, version = _state(parameter)
            self.identities.append(identity)
            self.versions.append(version)
            self.held.append(parameter.grad is not None)
            self.ever.append(parameter.grad is not None)
            self.is_sharded = self.is_sharded or hasattr(parameter, "_local_tensor")
        return bool(added)

    def close(self) -> None:
        """Let go of the parameters."""
        self.parameters, self.positions, self.identities, self.versions = [], {}, [], []
        self.held, self.ever, self.changes = [], [], {}

    def look(self) -> list[int]:
        """Positions whose gradient is another tensor or version than when last looked at; the new state is kept."""
        gradients = list(map(_gradient_of, self.parameters))
        if self.is_sharded:
            gradients = [getattr(gradient, "_local_tensor", gradient) for gradient in gradients]
        identities = list(map(id, gradients))
        if NO_GRADIENT[0] in identities:
            versions = [0 if gradient is None else gradient._version for gradient in gradients]
        else:
            versions = list(map(_version_of, gradients))
        before, self.identities = self.identities, identities
        versions_before, self.versions = self.versions, versions
        if identities == before and versions == versions_before:
            return []
        return [
            position
            for position, identity in enumerate(identities)
            if identity != before[position] or versions[position] != versions_before[position]
        ]

    def settle(self) -> Summary | None:
        """What was done by hand since the last look, or None."""
        before = self.identities, self.versions
        changed = self.look()
        if not changed and not self.changes:
            return None
        histories = {
            position: self._history(position, (before[0][position], before[1][position])) for position in changed
        }
        histories.update({p: self.changes[p] for p in self.changes if p not in histories})
        self.forget_changes()
        return self._summarise({p: changes for p, changes in histories.items() if changes})

    def _history(self, position: int, before: tuple[int, int]) -> list[Change]:
        """The changes that were noted, and an unknown one where they do not explain the new version."""
        noted = self.changes.get(position, [])
        now = self.identities[position], self.versions[position]
        explained = any(change.replaces for change in noted) or now == NO_GRADIENT
        bumps = sum(change.bumps_version for change in noted)
        if not explained and now != (before[0], before[1] + bumps):
            place = noted[0].location if noted else None
            return [*noted, Change("write", location=place)]
        return noted or [Change("zero")]

    def _summarise(self, histories: dict[int, list[Change]]) -> Summary | None:
        zeroed = voided = adjusted = False
        factors: list[float | None] = []
        location = None
        for position, history in histories.items():
            location = location or history[0].location
            last_zero = max((i for i, change in enumerate(history) if change.kind == "zero"), default=-1)
            after = history[last_zero + 1 :]
            if last_zero >= 0:
                zeroed = zeroed or self.held[position]
                self.held[position] = False
            if any(change.replaces for change in after):
                voided = voided or self.held[position]
            if after:
                was_held = self.held[position]
                adjusted = True
                self.held[position] = True
                self.ever[position] = True
                known = was_held and all(change.kind == "scale" for change in after)
                product = [change.factor for change in after] if known else [None]
                factors.append(None if None in product else math.prod(f for f in product if f is not None))
        if not (zeroed or adjusted):
            return None
        return Summary(zeroed, voided, adjusted, self._common_factor(factors), location)

    def _common_factor(self, factors: list[float | None]) -> float | None:
        """One factor for every gradient that is held, or None."""
        if not factors or len(factors) != sum(self.held):
            return None
        first = factors[0]
        if first is None or any(f is None or not math.isclose(f, first, rel_tol=1e-6) for f in factors):
            return None
        return first

    def forget_changes(self) -> None:
        """What was noted is recorded, or explained by an event."""
        self.changes = {}
        self.first_change = None

    def close_window(self) -> None:
        """A step was taken, or refused."""
        self.is_open = False
        self.lines_of_micro_batch.clear()

    @property
    def holds_gradient(self) -> bool:
        """Some parameter has a gradient that was not zeroed."""
        return True in self.held

    def mark_weights(self) -> None:
        """Remember the state of a few weights, to see later whether they were changed by hand."""
        self.weights_touched = False
        self.weight_marks = self._weight_state()

    def weights_changed(self) -> bool:
        """A weight was changed by hand since they were last marked."""
        return self.weights_touched or self.weight_marks != self._weight_state()

    def _weight_state(self) -> tuple[tuple[int, int, int], ...]:
        last = len(self.parameters) - 1
        some = {self.parameters[position] for position in {0, last // 2, last}} if last >= 0 else set()
        return tuple(sorted((id(p), p._version, p.data_ptr() if p.layout == torch.strided else 0) for p in some))


def _state(parameter: torch.Tensor) -> tuple[int, int]:
    gradient = parameter.grad
    gradient = getattr(gradient, "_local_tensor", gradient)
    return NO_GRADIENT if gradient is None else (id(gradient), gradient._version)
