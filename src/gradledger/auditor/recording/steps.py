"""Steps of optimizers, with closures, from hooks, refused by a gradient scaler."""

from __future__ import annotations

import threading
from typing import Any

import torch

from gradledger.auditor.reading.facts import memory_share
from gradledger.auditor.reading.locations import user_location
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.backward import Backwards
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.epochs import EpochWatch
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import RunningStep, ThreadState
from gradledger.ledger import Step


class AuditStopped(BaseException):
    """Raised in the audited program when it has made as many updates as were asked for."""


class Steps:
    """Before and after every ``optimizer.step``.

    Args:
        stop_after: Updates of one account after which the program is stopped.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        epochs: EpochWatch,
        by_hand: ByHand,
        backwards: Backwards,
        local: ThreadState,
        stop_after: int | None,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._epochs = epochs
        self._by_hand = by_hand
        self._backwards = backwards
        self._local = local
        self._stop_after = stop_after

    def begins(self, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """``optimizer.step()`` is called."""
        account = self._registry.account_of(optimizer)
        if account is not None:
            with self._registry.turns:
                self._begin(optimizer, account, arguments, options)

    def _begin(self, optimizer: Any, account: Account, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        local = self._local
        local.steps = [step for step in local.steps if step.optimizer is not optimizer]  # one that raised
        in_backward = local.call is not None or torch._C._current_autograd_node() is not None
        if in_backward and local.call is not None:
            self._backwards.take_in(account, local.call)
            local.call.recorded.discard(account.key)
        else:
            self._by_hand.settle(account)
        account.thread = threading.get_ident()
        has_closure = options.get("closure") is not None or any(callable(argument) for argument in arguments[1:2])
        local.steps.append(RunningStep(optimizer, account, has_closure, in_backward, user_location()))

    def ends(self, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """``optimizer.step()`` returned."""
        local = self._local
        running = next((step for step in reversed(local.steps) if step.optimizer is optimizer), None)
        if running is not None:
            with self._registry.turns:
                self._end(running)

    def _end(self, running: RunningStep) -> None:
        local, account = self._local, running.account
        if running.has_closure:
            self._by_hand.settle(account)
        local.steps.remove(running)
        account.look()
        account.forget_changes()
        self._registry.index_gradients(account)
        if not running.recorded_inside:
            self._add(running)
        for outer in local.steps:
            outer.recorded_inside = outer.recorded_inside or outer.account is account
        for zero in running.zeros:
            self._journal.add(account, zero)
        local.scaler_stepped = True
        if self._stop_after is not None and account.num_updates >= self._stop_after:
            raise AuditStopped
        if not local.backward_depth:
            self._journal.hand_over_when_full()

    def _add(self, running: RunningStep) -> None:
        account = running.account
        self._epochs.before_step(account)
        self._journal.add(
            account,
            Step(
                location=running.location,
                scaler=self._local.scaler is not None,
                in_backward=running.in_backward,
                num_missing=_num_missing(account),
                memory_share=memory_share(account.parameters),
            ),
        )
        account.num_updates += 1
        account.close_window()
        account.mark_weights()


def _num_missing(account: Account) -> int:
    if all(account.ever):
        return 0
    pairs = zip(account.parameters, account.ever, strict=True)
    return sum(not ever and parameter.requires_grad for parameter, ever in pairs)
