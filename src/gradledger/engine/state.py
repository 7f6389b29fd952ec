"""The state of an accumulator, between windows or inside an open one, as tensors and plain data.

It can be kept without pickle: dictionaries, lists, tuples, numbers, text and tensors, and the micro-batches of the open
window and of a carried tail as the loader gave them.

An open window's micro-batches are part of the state. They have been read already, so the loader's own position is that
after the window, which is what a loader that can be saved says by itself; nothing has to be read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gradledger.engine.record import Term, read_losses
from gradledger.engine.rewinding import Generators
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator
    from gradledger.engine.window import Window

STATE_VERSION = 2

Progress = Literal["none", "reading", "read"]
"""Of the present pass over a loader: there is none, its loader is being read, or has been read to its end."""

_KEYS = {
    *("version", "num_updates", "num_micro_batches", "num_epochs", "progress", "totals"),
    *("optimizer", "scheduler", "scaler", "carried", "generators", "window"),
}


def accumulator_state(accumulator: Accumulator) -> dict[str, Any]:
    """Everything that the next update depends on, except the model's own state.

    Raises:
        UserError: The open window cannot be saved at this point.
    """
    open_window = accumulator._open_window
    return {
        "version": STATE_VERSION,
        "num_updates": accumulator.num_updates,
        "num_micro_batches": accumulator.num_micro_batches,
        "num_epochs": accumulator._num_epochs,
        "progress": accumulator._progress,
        "totals": dict(accumulator.totals),
        "optimizer": accumulator.optimizer.state_dict(),
        "scheduler": None if accumulator.scheduler is None else accumulator.scheduler.state_dict(),
        "scaler": accumulator._precision.state_dict(),
        "carried": list(accumulator._carried),
        "generators": generators_of(accumulator).state_dict(),
        "window": accumulator._saved_window if open_window is None else _window_state(open_window),
    }


def load_accumulator_state(accumulator: Accumulator, state: Mapping[str, Any]) -> None:
    """Go on from where :func:`accumulator_state` was taken.

    Raises:
        UserError: It is not such a state, is of another version, or does not fit this accumulator.
    """
    _check(accumulator, state)
    accumulator.optimizer.load_state_dict(state["optimizer"])
    if accumulator.scheduler is not None:
        accumulator.scheduler.load_state_dict(state["scheduler"])
    accumulator._precision.load_state_dict(state["scaler"])
    accumulator.num_updates = state["num_updates"]
    accumulator.num_micro_batches = state["num_micro_batches"]
    accumulator._num_epochs = state["num_epochs"]
    accumulator._progress = state["progress"]
    accumulator._goes_on = state["progress"] != "none"
    accumulator.totals = dict(state["totals"])
    accumulator._carried = list(state["carried"])
    accumulator._saved_window = state["window"]
    Generators.from_state_dict(state["generators"]).restore()


def generators_of(accumulator: Accumulator) -> Generators:
    """The present states of the random generators that training may draw from: each device's, Python's and NumPy's."""
    tensors = [*accumulator.model.parameters(), *accumulator.model.buffers(), *accumulator._account.parameters]
    devices = {tensor.device for tensor in tensors}
    return Generators(devices if accumulator._device is None else devices | {accumulator._device})


def _check(accumulator: Accumulator, state: Any) -> None:
    if accumulator._open_window is not None:
        raise UserError("load_state_dict() was called inside an open window: call it before the first window")
    if not isinstance(state, Mapping):
        raise UserError(f"a state must be what state_dict() returned, not {type(state).__name__}")
    if "version" in state and state["version"] != STATE_VERSION:
        raise UserError(f"the state has version {state['version']!r}; this Gradledger reads version {STATE_VERSION}")
    missing = _KEYS - state.keys()
    if missing:
        raise UserError(f"this is no state of an Accumulator: it lacks {', '.join(sorted(missing))}")
    for name, own in (("scheduler", accumulator.scheduler), ("scaler", accumulator._precision.scaler)):
        if (state[name] is None) != (own is None):
            has = "no" if state[name] is None else "a"
            raise UserError(f"the state has {has} {name}, unlike this accumulator: make it as it was when saved")
    if state["window"] is not None:
        _check_window(accumulator, state["window"])


def _check_window(accumulator: Accumulator, state: Mapping[str, Any]) -> None:
    parameters = list(accumulator._account.parameters)
    for index, gradient in state["gradients"].items():
        shape = parameters[index].shape if index < len(parameters) else None
        if shape != gradient.shape:
            raise UserError(
                f"the state's open window has a gradient of shape {tuple(gradient.shape)} for parameter {index} of the "
                f"optimizer, which has {'no such parameter' if shape is None else f'shape {tuple(shape)}'} there: "
                "make model and optimizer as they were when saved"
            )
    policies = (
        ("survivors", "non_finite='drop-micro-batch'", accumulator._policy.non_finite == "drop-micro-batch"),
        ("statistics", "batch_norm='pooled'", accumulator._statistics is not None),
    )
    for key, what, is_used in policies:
        if (state[key] is not None) != is_used:
            raise UserError(
                f"the state's open window was begun with{'out' if is_used else ''} {what}, unlike this accumulator: "
                "make it as it was when saved"
            )


def _window_state(window: Window) -> dict[str, Any]:
    _check_savable(window)
    account, record = window._accumulator._account, window._record
    statistics = window._accumulator._statistics
    return {
        "position": window._position,
        "micro_batches": list(window._micro_batches),
        "num_samples": window._shares.num_samples,
        "sample_positions": _plain_positions(window.sample_positions),
        "terms": [_plain_term(term) for term in window._terms],
        "losses": read_losses(window._losses),
        "is_regular": window._is_regular,
        "cleared": record.cleared,
        "shares": window._shares.state_dict(),
        "gradients": account.accumulated(),
        "survivors": None if window._survivors is None else window._survivors.state_dict(),
        "statistics": None if statistics is None else statistics.state_dict(),
    }


def _check_savable(window: Window) -> None:
    account, position = window._accumulator._account, window._position
    if window._accumulator._together is not None:
        raise UserError("state_dict() was called inside an open window of several ranks: call it between windows")
    if window._replay is not None:
        raise UserError("state_dict() was called inside a window that is replayed: call it between windows")
    if window._is_torn or (position >= 0 and not any(term.position == position for term in window._terms)):
        raise UserError(
            f"state_dict() was called inside an open window before the backward of micro-batch {position}, whose "
            "forward cannot be saved: call it after the micro-batch's last backward"
        )
    window._accumulator._precision.check_savable()
    account.check_untouched(may_be_changed=True)
    account.check_owned()


def _plain_term(term: Term) -> list[Any]:
    """The term with numbers that are still on a device fetched."""
    weight = None if term.weight is None else float(term.weight)
    return [term.position, float(term.coefficient), term.unit, weight, term.reduction]


def _plain_positions(positions: list[Sequence[int] | None] | None) -> list[list[int] | None] | None:
    if positions is None:
        return None
    return [None if each is None else [int(position) for position in each] for each in positions]


def restore_window(window: Window, state: Mapping[str, Any]) -> None:
    """Bring a window that has just opened to where it stood when it was saved."""
    account, precision = window._accumulator._account, window._accumulator._precision
    window._position = state["position"]
    window._terms.extend(Term(*term) for term in state["terms"])
    window._losses.extend(state["losses"])
    window._is_regular = state["is_regular"]
    window._record.cleared = state["cleared"]
    window._shares.load_state_dict(state["shares"])
    precision.begin_scaler()
    for at, parameter in enumerate(account.parameters):
        if at in state["gradients"]:
            parameter.grad = _copied(state["gradients"][at], parameter)
            if account.host_gradients is not None:
                account.host_gradients.take(parameter)
    if window._survivors is not None:
        sums = state["survivors"]["sums"]
        copied = {p: _copied(sums[at], p) for at, p in enumerate(account.parameters) if at in sums}
        window._survivors.load_state_dict(copied, state["survivors"]["is_finite"])
    if window._accumulator._statistics is not None:
        window._accumulator._statistics.load_state_dict(state["statistics"])
    account.watch()


def _copied(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The saved gradient beside its parameter; training adds to the copy, not to the state."""
    return torch.empty_like(gradient, device=parameter.device).copy_(gradient)
