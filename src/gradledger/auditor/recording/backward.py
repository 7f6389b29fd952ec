"""Backward calls, and the accounts that received gradients from them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradledger.auditor.reading.facts import is_finite
from gradledger.auditor.reading.locations import location_of, steps_of_trainer, user_frame
from gradledger.auditor.reading.loss_graph import Reading, read_loss
from gradledger.auditor.recording.account import Account, Occasion
from gradledger.auditor.recording.by_hand import ByHand
from gradledger.auditor.recording.epochs import EpochWatch
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.reductions import Reductions
from gradledger.auditor.recording.registry import Registry
from gradledger.auditor.recording.state import Call, Surveyed, ThreadState
from gradledger.auditor.recording.surveys import RetainedGraphs, Surveys
from gradledger.auditor.recording.zeroing import Zeros
from gradledger.ledger import Backward, Location


class Backwards:
    """Around every call of backward."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        epochs: EpochWatch,
        zeros: Zeros,
        by_hand: ByHand,
        reductions: Reductions,
        local: ThreadState,
    ) -> None:
        self.num_calls = 0
        self.scaler_used = False
        self.surveys = Surveys(registry)
        self.retained = RetainedGraphs(registry, journal)
        self._registry = registry
        self._journal = journal
        self._epochs = epochs
        self._zeros = zeros
        self._by_hand = by_hand
        self._reductions = reductions
        self._local = local
        self._threads: set[int] = set()

    @contextmanager
    def around(self, losses: list[Any], gradient: Any, *, retained: bool) -> Iterator[None]:
        """Around a backward call that is not part of another one."""
        local = self._local
        if local.backward_depth or torch._C._current_autograd_node() is not None:
            yield
            return
        frame = user_frame(2)
        with self._registry.turns:
            self._threads.add(threading.get_ident())
            accounts = self._accounts_in_reach()
            for account in accounts:
                self._by_hand.settle(account)
            call = self._open(losses, gradient, location_of(frame), retained)
        local.backward_depth, local.call = 1, call
        try:
            yield
        finally:
            local.backward_depth, local.call = 0, None
        with self._registry.turns:
            self._epochs.before_backward(frame)
            for account in accounts:
                self.take_in(account, call)

    def _accounts_in_reach(self) -> list[Account]:
        """All accounts; where several threads train, those of this thread."""
        accounts = list(self._registry.accounts.values())
        for account in accounts:
            self._registry.refresh(account)
        if len(self._threads) > 1:
            me = threading.get_ident()
            return [account for account in accounts if account.thread in (None, me)]
        return accounts

    def _open(self, losses: list[Any], gradient: Any, location: Location | None, retained: bool) -> Call:
        self.num_calls += 1
        reading = read_loss(losses[0], gradient, scaled=self.scaler_used) if len(losses) == 1 else Reading(factors=None)
        roots = [node for loss in losses if (node := getattr(loss, "grad_fn", None)) is not None]
        reuses = self.retained.call_of(roots)
        if retained:
            self.retained.keep(roots, self.num_calls)
        surveyed = self.surveys.of(roots, location)
        if _has_cache(reading, surveyed):
            reading.leave_open()
        return Call(
            self.num_calls, location, reading, retained, reuses, is_finite(losses), surveyed, steps_of_trainer()
        )

    def take_in(self, account: Account, call: Call) -> None:
        """Record the call with an account that received gradients from it."""
        before = account.identities
        changed = account.look()
        account.forget_changes()
        kept = [account.positions[identity] for identity in call.sharded if identity in account.positions]
        if not changed and not kept:
            return
        self._registry.bound_index()
        found = (account.parameters[position].grad for position in changed)
        dtype = next((gradient.dtype for gradient in found if gradient is not None), None)
        # Left out: what was added to in place, as in every micro-batch but a window's first.
        anew = [p for p in changed if not (account.held[p] and before[p] == account.identities[p])]
        emptied = self._hold(account, anew)
        for position in kept:  # gradients that FSDP keeps elsewhere until it reduces them
            account.held[position] = account.ever[position] = True
            dtype = dtype or account.parameters[position].dtype
        if dtype is not None and account.key not in call.recorded:
            self._add(account, call, dtype)
        if emptied:
            self._zeros.add(account, Occasion(call.location), partial=account.holds_gradient)

    def _hold(self, account: Account, changed: list[int]) -> bool:
        """Note which gradients are there now; whether a hook used one and let it go."""
        emptied = False
        for position in changed:
            gradient = account.parameters[position].grad
            if gradient is None:
                emptied = emptied or account.held[position]
                account.held[position] = False
                continue
            self._registry.gradients[id(gradient)] = (account, position)
            account.held[position] = account.ever[position] = True
        return emptied

    def _add(self, account: Account, call: Call, dtype: torch.dtype) -> None:
        call.recorded.add(account.key)
        self._count_micro_batch(account, call)
        account.mark_weights()
        account.in_epoch = account.is_open = True
        account.evaluated_at = None  # it is in evaluation mode and trains: normalisation is frozen, or dropout off
        account.handled_exception = id(sys.exc_info()[1])
        running = self._local.step_of(account)
        if running is not None:
            for zero in running.zeros:
                self._journal.add(account, zero)
            running.zeros = []
        reading = call.reading
        self._journal.add(
            account,
            Backward(
                location=call.location,
                weight=reading.weight,
                unit=reading.unit,
                scale=reading.scale,
                factors=reading.values,
                reduction=reading.reduction,
                retained=call.retained,
                synced=self._reductions.is_synced(account, call),
                grad_dtype=str(dtype).removeprefix("torch."),
                finite=call.finite,
                call=call.number,
                scaled_by_scaler=reading.scaled_by_scaler or None,
                reuses=call.reuses,
                num_unowned=call.surveyed.num_unowned,
                batch_norm=call.surveyed.batch_norm,
                coupled=reading.coupled or None,
                trainer_steps=call.trainer_steps,
                own_half=reading.own_half,
            ),
        )

    def _count_micro_batch(self, account: Account, call: Call) -> None:
        # Another term of the same micro-batch: through the same graph, or fed with the same data.
        is_term = call.reuses is not None or call.location in self.surveys.lines_of_terms
        lines = account.lines_of_micro_batch
        if not lines or (call.location in lines and not is_term):
            account.num_micro_batches += 1
            lines.clear()
        lines.add(call.location)


def _has_cache(reading: Reading, surveyed: Surveyed) -> bool:
    """The loss may compare more samples than its graph leads to: features of the window, computed beforehand."""
    num_rows = surveyed.num_rows
    is_larger = num_rows is None or reading.weight is None or 0 < num_rows < reading.weight
    if reading.coupled:
        return surveyed.joins_cache or surveyed.fills_cache or is_larger
    return surveyed.joins_cache or (surveyed.fills_cache and is_larger)
