"""Keeps the ledger of a running program: turns what the patches see into entries."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gradledger.auditor.account import Account, Change, ChangeKind, Summary
from gradledger.auditor.epochs import EpochWatch
from gradledger.auditor.locations import inside_engine, location_of, user_frame, user_location
from gradledger.auditor.loss_graph import Reading, read_loss
from gradledger.auditor.readings import horizon, is_finite, is_zero, memory_share
from gradledger.auditor.registry import MAX_INDEX, Registry
from gradledger.auditor.survey import Survey, mark_retained, retained_call, survey
from gradledger.ledger import (
    Adjust,
    Average,
    Backward,
    Clip,
    Entry,
    EpochEnd,
    EpochStart,
    Ledger,
    Location,
    ScalerUpdate,
    Schedule,
    Step,
    Sync,
    Unscale,
    Zero,
)

_SURVEYS_PER_LINE = 3


class AuditStopped(BaseException):
    """Raised in the audited program when it has made as many updates as were asked for."""


@dataclass(slots=True)
class _RunningStep:
    """A call of ``optimizer.step`` that has not returned."""

    optimizer: Any
    account: Account
    has_closure: bool
    in_backward: bool
    location: Location | None
    recorded_inside: bool = False
    zeros: list[Zero] = field(default_factory=list)


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.steps: list[_RunningStep] = []
        self.backward_depth = 0
        self.quiet = 0
        self.scheduler_depth = 0
        self.scaler: Any = None
        self.scaler_stepped = False
        self.call: _Call | None = None


@dataclass(frozen=True, slots=True)
class _Surveyed:
    """What the last survey of a line's graph came to."""

    num_unowned: int | None = None
    batch_norm: bool | None = None


@dataclass(slots=True)
class _Call:
    """A backward call that is running or has run."""

    number: int
    location: Location | None
    reading: Reading
    retained: bool
    reuses: int | None
    finite: bool | None
    surveyed: _Surveyed
    recorded: set[str] = field(default_factory=set)
    sharded: dict[int, bool] = field(default_factory=dict)


class Recorder(Registry):
    """The ledger of this process while it is being audited.

    Args:
        stop_after: Updates of one account after which the program is stopped.
        max_entries: Entries that are kept before ``on_full`` is called with a ledger of them.
        on_full: Takes the older part of a long ledger.
    """

    def __init__(
        self,
        *,
        stop_after: int | None = None,
        max_entries: int = 60_000,
        on_full: Callable[[Ledger], None] | None = None,
    ) -> None:
        super().__init__()
        self.stop_after = stop_after
        self.max_entries = max_entries
        self.on_full = on_full
        self.entries: list[Entry] = []
        self.epochs = EpochWatch(self)
        self.local = _ThreadState()
        self.num_calls = 0
        self.num_surveys: dict[Location | None, int] = {}
        self.surveys: dict[Location | None, _Surveyed] = {}
        self.last_surveys: dict[Location | None, Survey] = {}
        self.lines_of_terms: set[Location | None] = set()
        self.retained_pending = False
        self.synced_modules: weakref.WeakKeyDictionary[Any, tuple[bool, frozenset[int]]] = weakref.WeakKeyDictionary()
        self.schedulers: weakref.WeakKeyDictionary[Any, Location | None] = weakref.WeakKeyDictionary()
        self.backward_threads: set[int] = set()
        self.scaler_accounts: dict[int, dict[str, Account]] = {}
        self.scaler_used = False
        self._lock = threading.RLock()

    # Entries

    def add(self, account: Account, entry: Entry) -> None:
        """Append an entry with the account's counters."""
        # The entry is this call's own, so its counters are set in place: `replace` would build it a second time.
        object.__setattr__(entry, "account", account.key)
        object.__setattr__(entry, "micro_batch", account.num_micro_batches)
        object.__setattr__(entry, "update", account.num_updates)
        account.is_used = True
        self.entries.append(entry)

    def settle(self, account: Account) -> None:
        """Record what was done by hand to the account's gradients."""
        for _, owner, _, _ in self.aliases.values():
            if owner is account:
                self._settle_aliases(account)
                break
        summary = account.settle()
        if summary is None:
            return
        self._index_gradients(account)
        if summary.voided:
            self.add(account, Zero(void=True, location=summary.location))
        elif summary.zeroed:
            self._add_zero(account, summary)
        if summary.adjusted:
            self.add(account, Adjust(factor=summary.factor, location=summary.location))

    def _add_zero(self, account: Account, summary: Summary) -> None:
        partial = account.holds_gradient and not summary.adjusted
        # It is noticed late, when the program may be in another loop: what held when it was done was kept.
        self.zeroed(
            account,
            location=summary.location,
            partial=partial,
            left_loop=account.left_loop,
            by_engine=account.by_engine,
        )

    def _settle_aliases(self, account: Account) -> None:
        """Changes made through ``.data``, which has a version counter of its own."""
        for key, (alias, owner, position, is_weight) in list(self.aliases.items()):
            if owner is not account:
                continue
            noted = sum(not change.bumps_version for change in account.changes.get(position, ()))
            if is_weight:
                account.weights_touched = account.weights_touched or alias._version > 0
            elif alias._version > noted:
                account.changes.setdefault(position, []).append(Change("write"))
            del self.aliases[key]

    def zeroed(
        self,
        account: Account,
        *,
        location: Location | None,
        partial: bool,
        left_loop: bool | None = None,
        by_engine: bool = False,
    ) -> None:
        """Record a zeroing; inside a step it belongs after the step, inside a closure it is on purpose."""
        running = next((step for step in reversed(self.local.steps) if step.account is account), None)
        is_open = bool(account.lines_of_micro_batch)
        given_up = by_engine or account.weights_changed()
        void = bool(running and running.has_closure) or (is_open and given_up)
        entry = Zero(location=location, partial=partial, void=void)
        if running is not None and not running.has_closure and not partial:
            running.zeros.append(replace(entry, void=False))
        else:
            self.epochs.before_zero(account, self.epochs.has_left_loop(account) if left_loop is None else left_loop)
            self.add(account, entry)

    # Zeroing

    @contextmanager
    def zeroing(self, parameters: Iterable[Any]) -> Iterator[None]:
        """Around a call that zeroes the gradients of these parameters."""
        parameters = list(parameters)
        accounts = self.accounts_of(parameters)
        for account in accounts:
            self.settle(account)
        location = user_location()
        by_engine = inside_engine()
        with self.quietly():
            yield
        zeroed = {id(parameter) for parameter in parameters}
        for account in accounts:
            touched = [i for i, p in enumerate(account.parameters) if id(p) in zeroed]
            had = any(account.held[i] for i in touched)
            for i in touched:
                account.held[i] = False
            account.look()
            if had or len(touched) == len(account.parameters):
                self.zeroed(account, location=location, partial=account.holds_gradient, by_engine=by_engine)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Changes of gradients in here are known to the caller and not noted one by one."""
        self.local.quiet += 1
        try:
            yield
        finally:
            self.local.quiet -= 1

    # Changes by hand

    def note_change(self, gradient: Any, kind: Any, factor: float | None) -> None:
        """A gradient is about to be changed in place."""
        entry = self.gradients.get(id(gradient))
        bumps = True
        if entry is None:
            alias = self.aliases.get(id(gradient))
            if alias is None or alias[0] is not gradient or alias[3]:
                return
            entry, bumps = (alias[1], alias[2]), False
        account, position = entry
        if bumps and account.parameters[position].grad is not gradient:
            return
        self._note(account, position, Change(kind, factor, self._first_location(account), bumps))

    def note_set(self, parameter: Any, value: Any) -> None:
        """``p.grad = value``."""
        for account, position in self.owners.get(id(parameter), ()):
            if account.parameters[position] is not parameter or value is parameter.grad is not None:
                continue  # `p.grad /= n` sets what it has just changed in place
            place = self._first_location(account)
            kind: ChangeKind = "zero" if value is None or is_zero(value) else "write"
            change = Change(kind, location=place, replaces=True)
            self._note(account, position, change)

    def note_alias(self, tensor: Any, alias: Any) -> None:
        """``tensor.data`` was read: changes through it do not show in the tensor's version."""
        entry = self.gradients.get(id(tensor))
        if entry is not None and entry[0].parameters[entry[1]].grad is tensor:
            self.aliases[id(alias)] = (alias, *entry, False)
            return
        for account, position in self.owners.get(id(tensor), ()):
            self.aliases[id(alias)] = (alias, account, position, True)

    def note_weights(self, parameter: Any) -> None:
        """``p.data = value``."""
        for account, _ in self.owners.get(id(parameter), ()):
            account.weights_touched = True

    def _note(self, account: Account, position: int, change: Change) -> None:
        account.changes.setdefault(position, []).append(change)

    def _first_location(self, account: Account) -> Location | None:
        if account.changes:
            return None
        account.left_loop = self.epochs.has_left_loop(account)
        account.by_engine = inside_engine()
        return user_location()

    # Backward

    @contextmanager
    def backward(self, losses: list[Any], gradient: Any, *, retained: bool) -> Iterator[None]:
        """Around a backward call that is not part of another one."""
        local = self.local
        if local.backward_depth or torch._C._current_autograd_node() is not None:
            yield
            return
        frame = user_frame(2)
        self.backward_threads.add(threading.get_ident())
        accounts = self._accounts_in_reach()
        for account in accounts:
            self.settle(account)
        call = self._open_call(losses, gradient, location_of(frame), retained)
        local.backward_depth, local.call = 1, call
        try:
            yield
        finally:
            local.backward_depth, local.call = 0, None
        self.epochs.before_backward(frame)
        for account in accounts:
            self._close_call(account, call)

    def _accounts_in_reach(self) -> list[Account]:
        """All accounts; where several threads train, those of this thread."""
        self.let_go()
        accounts = list(self.accounts.values())
        for account in accounts:
            if account.refresh():
                self._index(account)
        if len(self.backward_threads) > 1:
            me = threading.get_ident()
            return [account for account in accounts if account.thread in (None, me)]
        return accounts

    def _open_call(self, losses: list[Any], gradient: Any, location: Location | None, retained: bool) -> _Call:
        with self._lock:
            self.num_calls += 1
            number = self.num_calls
        reading = read_loss(losses[0], gradient, scaled=self.scaler_used) if len(losses) == 1 else Reading(factors=None)
        roots = [node for loss in losses if (node := getattr(loss, "grad_fn", None)) is not None]
        reuses = retained_call(roots) if self.retained_pending else None
        if retained:
            mark_retained(roots, number)
            self.retained_pending = True
        surveyed = self._survey(roots, location)
        return _Call(number, location, reading, retained, reuses, is_finite(losses), surveyed)

    def _survey(self, roots: list[Any], location: Location | None) -> _Surveyed:
        done = self.num_surveys.get(location, 0)
        if done >= _SURVEYS_PER_LINE:
            return self.surveys[location]
        self.num_surveys[location] = done + 1
        found = survey(roots)
        surveyed = _Surveyed()
        if found is not None:
            num_unowned = sum(identity not in self.owners for identity in found.parameters)
            is_sharded = any(account.is_sharded for account in self.accounts.values())
            surveyed = _Surveyed(None if is_sharded else num_unowned, found.batch_norm)
            before = self.last_surveys.get(location)
            if before is not None and found.same_data_as(before):
                self.lines_of_terms.add(location)
            self.last_surveys[location] = found
        self.surveys[location] = surveyed
        return surveyed

    def shard_group_done(self, parameters: list[Any], reduced: bool) -> None:
        """FSDP has dealt with a group's gradients: reduced them, or kept them for a later backward."""
        call = self.local.call
        if call is not None:
            call.sharded.update((id(parameter), reduced) for parameter in parameters)

    def graph_reused(self, outputs: Iterable[Any]) -> None:
        """``autograd.grad`` went through a graph: a retained one was kept for it."""
        if not self.retained_pending:
            return
        call = retained_call([node for output in outputs if (node := getattr(output, "grad_fn", None)) is not None])
        for position in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[position]
            if isinstance(entry, Backward) and entry.call == call and call is not None:
                self.entries[position] = replace(entry, retained=False)

    def _close_call(self, account: Account, call: _Call) -> None:
        """Record the call with an account that received gradients from it."""
        before = account.identities
        changed = account.look()
        account.changes = {}
        kept = [account.positions[identity] for identity in call.sharded if identity in account.positions]
        if not changed and not kept:
            return
        gradients = self.gradients
        if len(gradients) > MAX_INDEX:
            gradients.clear()
            for other in self.accounts.values():
                self._index_gradients(other)
        found = (account.parameters[position].grad for position in changed)
        dtype = next((gradient.dtype for gradient in found if gradient is not None), None)
        emptied = False
        for position in changed:
            if account.held[position] and before[position] == account.identities[position]:
                continue  # added to in place, as in every micro-batch but a window's first
            gradient = account.parameters[position].grad
            if gradient is None:  # a hook used it and let it go
                emptied = emptied or account.held[position]
                account.held[position] = False
                continue
            gradients[id(gradient)] = (account, position)
            account.held[position] = account.ever[position] = True
        for position in kept:  # gradients that FSDP keeps elsewhere until it reduces them
            account.held[position] = account.ever[position] = True
            dtype = dtype or account.parameters[position].dtype
        if dtype is not None and account.key not in call.recorded:
            self._add_backward(account, call, dtype)
        if emptied:
            self.zeroed(account, location=call.location, partial=account.holds_gradient)

    def _add_backward(self, account: Account, call: _Call, dtype: torch.dtype) -> None:
        call.recorded.add(account.key)
        # Another term of the same micro-batch: through the same graph, or fed with the same data.
        is_term = call.reuses is not None or call.location in self.lines_of_terms
        lines = account.lines_of_micro_batch
        if not lines or (call.location in lines and not is_term):
            account.num_micro_batches += 1
            lines.clear()
        lines.add(call.location)
        account.mark_weights()
        account.in_epoch = True
        reading = call.reading
        running = next((step for step in self.local.steps if step.account is account), None)
        if running is not None and running.zeros:
            for zero in running.zeros:
                self.add(account, zero)
            running.zeros = []
        self.add(
            account,
            Backward(
                location=call.location,
                weight=reading.weight,
                unit=reading.unit,
                scale=reading.scale,
                factors=reading.values,
                reduction=reading.reduction,
                retained=call.retained,
                synced=self._is_synced(account, call),
                grad_dtype=str(dtype).removeprefix("torch."),
                finite=call.finite,
                call=call.number,
                scaled_by_scaler=reading.scaled_by_scaler or None,
                reuses=call.reuses,
                num_unowned=call.surveyed.num_unowned,
                batch_norm=call.surveyed.batch_norm,
                coupled=reading.coupled or None,
            ),
        )

    def _is_synced(self, account: Account, call: _Call) -> bool | None:
        if call.sharded:
            flags = [reduced for identity, reduced in call.sharded.items() if identity in account.positions]
            return any(flags) if flags else None
        flags = [
            synced
            for synced, parameters in self.synced_modules.values()
            if not parameters.isdisjoint(account.positions)
        ]
        return any(flags) if flags else None

    # Steps

    def step_begins(self, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """``optimizer.step()`` is called."""
        account = self.account_of(optimizer)
        if account is None:
            return
        local = self.local
        local.steps = [step for step in local.steps if step.optimizer is not optimizer]  # one that raised
        in_backward = local.call is not None or torch._C._current_autograd_node() is not None
        if in_backward and local.call is not None:
            self._close_call(account, local.call)
            local.call.recorded.discard(account.key)
        else:
            self.settle(account)
        account.thread = threading.get_ident()
        has_closure = options.get("closure") is not None or any(callable(argument) for argument in arguments[1:2])
        local.steps.append(_RunningStep(optimizer, account, has_closure, in_backward, user_location()))

    def step_ends(self, optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """``optimizer.step()`` returned."""
        local = self.local
        running = next((step for step in reversed(local.steps) if step.optimizer is optimizer), None)
        if running is None:
            return
        account = running.account
        if running.has_closure:
            self.settle(account)
        local.steps.remove(running)
        account.look()
        account.changes = {}
        self._index_gradients(account)
        if not running.recorded_inside:
            self._add_step(running)
        for outer in local.steps:
            outer.recorded_inside = outer.recorded_inside or outer.account is account
        for zero in running.zeros:
            self.add(account, zero)
        local.scaler_stepped = True
        self._stop_when_enough(account)

    def _add_step(self, running: _RunningStep) -> None:
        account = running.account
        self.epochs.before_step(account)
        scaler = self.local.scaler
        self.add(
            account,
            Step(
                location=running.location,
                scaler=scaler is not None,
                in_backward=running.in_backward,
                num_missing=self._num_missing(account),
                memory_share=memory_share(account),
            ),
        )
        account.num_updates += 1
        account.lines_of_micro_batch.clear()
        account.mark_weights()

    def _num_missing(self, account: Account) -> int:
        if all(account.ever):
            return 0
        pairs = zip(account.parameters, account.ever, strict=True)
        return sum(not ever and parameter.requires_grad for parameter, ever in pairs)

    def _stop_when_enough(self, account: Account) -> None:
        if self.stop_after is not None and account.num_updates >= self.stop_after:
            raise AuditStopped
        if len(self.entries) >= self.max_entries and self.on_full is not None and not self.local.backward_depth:
            older, self.entries = self.entries, []
            self.on_full(self._ledger_of(older))

    # Clipping, scaler, schedule, average, reduction

    @contextmanager
    def clipping(self, parameters: list[Any], entry: Clip) -> Iterator[None]:
        """Around a call that clips the gradients of these parameters."""
        accounts = self.accounts_of(parameters)
        for account in accounts:
            self.settle(account)
        place = user_location()
        with self.quietly():
            yield
        for account in self._most_concerned(accounts):
            self.add(account, replace(entry, location=place))
        for account in accounts:
            account.look()

    def _most_concerned(self, accounts: list[Account]) -> list[Account]:
        """Those with a gradient that no step has used, where there are any; else those with any; else all."""
        fresh = [account for account in accounts if account.lines_of_micro_batch and account.holds_gradient]
        return fresh or [account for account in accounts if account.holds_gradient] or accounts

    @contextmanager
    def unscaling(self, scaler: Any, optimizer: Any) -> Iterator[None]:
        """Around a gradient scaler's ``unscale_``."""
        account = self.account_of(optimizer)
        if account is not None:
            self.settle(account)
        with self.quietly():
            yield
        if account is not None:
            account.look()
            self.scaler_accounts.setdefault(id(scaler), {})[account.key] = account
            self.add(account, Unscale(location=user_location()))

    @contextmanager
    def scaler_step(self, scaler: Any, optimizer: Any) -> Iterator[None]:
        """Around a gradient scaler's ``step``; where no optimizer steps inside, it was refused."""
        local = self.local
        outer, local.scaler, local.scaler_stepped = local.scaler, scaler, False
        try:
            yield
        finally:
            local.scaler = outer
        account = self.account_of(optimizer)
        if account is None:
            return
        self.scaler_accounts.setdefault(id(scaler), {})[account.key] = account
        if not local.scaler_stepped:
            self.add(account, Step(location=user_location(), skipped=True, scaler=True))
            account.lines_of_micro_batch.clear()

    def scaler_updated(self, scaler: Any) -> None:
        """A gradient scaler's ``update``."""
        accounts = self.scaler_accounts.pop(id(scaler), {})
        accounts |= {key: account for key, account in self.accounts.items() if account.lines_of_micro_batch}
        for account in accounts.values():
            self.add(account, ScalerUpdate(location=user_location()))

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler advanced."""
        account = self.account_of(getattr(scheduler, "optimizer", None))
        if account is None:
            return
        lr = scheduler.optimizer.param_groups[0].get("lr")
        self.add(
            account,
            Schedule(
                location=user_location(),
                lr=lr if isinstance(lr, float) else None,
                scheduler=type(scheduler).__name__,
                horizon=horizon(scheduler),
                construction=self.schedulers.get(scheduler),
            ),
        )

    def averaged(self, parameters: Iterable[Any]) -> None:
        """A running average took in these weights."""
        for account in self.accounts_of(parameters):
            self.add(account, Average(location=user_location()))

    def reduced(self, tensor: Any) -> None:
        """A tensor was reduced over ranks by hand."""
        entry = self.gradients.get(id(tensor))
        if entry is None:
            return
        account = entry[0]
        last = self.entries[-1] if self.entries else None
        if not (isinstance(last, Sync) and last.account == account.key):
            self.settle(account)
            self.add(account, Sync(location=user_location()))

    def mark_epoch(self, *, ended: bool, epoch: int, num_micro_batches: int | None = None) -> None:
        """An epoch's border, told to every account that had a micro-batch in it."""
        for account in self.accounts.values():
            if not account.in_epoch:
                continue
            if ended:
                self.add(account, EpochEnd(epoch=epoch))
            else:
                self.add(account, EpochStart(epoch=epoch, num_micro_batches=num_micro_batches))
            account.in_epoch = False

    # The ledger

    def finish(self) -> None:
        """Take in what was done by hand since the last event."""
        for account in self.accounts.values():
            self.settle(account)

    def release(self) -> None:
        """Let go of every parameter and gradient."""
        for account in self.accounts.values():
            account.close()
        self.owners.clear()
        self.gradients.clear()
        self.aliases.clear()
        self._by_optimizer.clear()
        self.last_surveys.clear()

    def ledger(self) -> Ledger:
        """What was recorded so far, accounts by their names."""
        return self._ledger_of(self.entries)

    def _ledger_of(self, entries: list[Entry]) -> Ledger:
        names = self.names()
        return Ledger(replace(entry, account=names[entry.account]) for entry in entries)
