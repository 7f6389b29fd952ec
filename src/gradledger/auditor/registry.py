"""Which parameters belong to which account, and which gradient to which parameter."""

from __future__ import annotations

import gc
import linecache
import re
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch

from gradledger.auditor.account import Account
from gradledger.auditor.locations import user_frame
from gradledger.ledger import DEFAULT_ACCOUNT

MAX_INDEX = 100_000
_PACKAGE = __name__.rpartition(".")[0] + "."
# Below these the audited program runs.
_AROUND_THE_PROGRAM = {_PACKAGE + module for module in ("session", "script", "children", "patches")}


class Registry:
    """The accounts of one audit.

    ``owners`` gives a parameter's accounts and its position in them, ``gradients`` the same for a gradient, both by
    identity; ``aliases`` holds tensors that were read through ``.data`` and share memory with one of either.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.owners: dict[int, list[tuple[Account, int]]] = {}
        self.gradients: dict[int, tuple[Account, int]] = {}
        self.aliases: dict[int, tuple[Any, Account, int, bool]] = {}
        self.on_sharded: Callable[[], None] | None = None
        self._by_optimizer: dict[int, tuple[weakref.ref[Any], Account]] = {}
        self._gone: deque[tuple[int, weakref.ref[Any]]] = deque()

    def account_of(self, optimizer: Any) -> Account | None:
        """The account of an optimizer, opened when it is first met. Optimizers over the same parameters share one."""
        self.let_go()
        optimizer = _unwrapped(optimizer)
        known = self._by_optimizer.get(id(optimizer))
        if known is not None and known[0]() is optimizer:
            if known[1].refresh():
                self._index(known[1])
            return known[1]
        if not getattr(optimizer, "param_groups", None):
            return None
        account = self._shared_account(optimizer) or self._open_account(optimizer)
        identity = id(optimizer)
        reference = weakref.ref(optimizer, lambda gone: self._destroyed(identity, gone))
        self._by_optimizer[identity] = (reference, account)
        account.optimizer = reference
        return account

    def _destroyed(self, identity: int, reference: weakref.ref[Any]) -> None:
        """Let go of an optimizer's parameters: at once, as their memory may be wanted, unless they are being read."""
        self._gone.append((identity, reference))
        if not _is_keeping_books(sys._getframe(2)):  # past the weak reference's own callback
            self.let_go()

    def let_go(self) -> None:
        """Close the accounts of optimizers that were destroyed, where no other optimizer has them."""
        while self._gone:
            self._optimizer_gone(*self._gone.popleft())

    def _optimizer_gone(self, identity: int, reference: weakref.ref[Any]) -> None:
        known = self._by_optimizer.get(identity)
        if known is None or known[0] is not reference:
            return
        del self._by_optimizer[identity]
        account = known[1]
        others = [other for other, its_account in self._by_optimizer.values() if its_account is account]
        if others:
            account.optimizer = others[-1]
        else:
            self._close_account(account)

    def meet_living_optimizers(self) -> None:
        """Open accounts for the optimizers that were made before the audit, as in a notebook."""
        for candidate in gc.get_objects():
            if issubclass(type(candidate), torch.optim.Optimizer):  # isinstance would wake lazy objects
                self.account_of(candidate)

    def _shared_account(self, optimizer: Any) -> Account | None:
        wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for account in self.accounts.values():
            if account.positions.keys() == wanted:
                return account
        return None

    def _open_account(self, optimizer: Any) -> Account:
        key = f"account {len(self.accounts)}"
        account = Account(key, _assigned_name(key), weakref.ref(optimizer), thread=threading.get_ident())
        account.refresh()
        self.accounts[key] = account
        self._index(account)
        return account

    def _close_account(self, account: Account) -> None:
        """Let go of the parameters."""
        for identity in account.positions:
            owners = [pair for pair in self.owners.pop(identity, []) if pair[0] is not account]
            if owners:
                self.owners[identity] = owners
        for index in (self.gradients, self.aliases):
            for identity in [key for key, known in index.items() if any(part is account for part in known)]:
                del index[identity]
        account.close()

    def _index(self, account: Account) -> None:
        if account.is_sharded and self.on_sharded is not None:
            self.on_sharded()
            self.on_sharded = None
        for position, parameter in enumerate(account.parameters):
            owners = self.owners.setdefault(id(parameter), [])
            if not any(owner is account for owner, _ in owners):
                owners.append((account, position))
            if parameter.grad is not None:
                self.gradients[id(parameter.grad)] = (account, position)

    def accounts_of(self, parameters: Iterable[Any]) -> list[Account]:
        """The accounts that own any of these parameters."""
        found: dict[str, Account] = {}
        for parameter in parameters:
            for account, _ in self.owners.get(id(parameter), ()):
                found[account.key] = account
        return list(found.values())

    def _index_gradients(self, account: Account) -> None:
        gradients = self.gradients
        for position, parameter in enumerate(account.parameters):
            gradient = parameter.grad
            if gradient is not None:
                gradients[id(gradient)] = (account, position)

    def names(self) -> dict[str, str]:
        """The reported name of each account: the only one is ``main``."""
        used = {key: account for key, account in self.accounts.items() if account.is_used}
        if len(used) == 1:
            return dict.fromkeys(used, DEFAULT_ACCOUNT)
        taken: dict[str, int] = {}
        names = {}
        for key, account in used.items():
            taken[account.name] = number = taken.get(account.name, 0) + 1
            names[key] = account.name if number == 1 else f"{account.name}-{number}"
        return names


def _is_keeping_books(interrupted: FrameType | None) -> bool:
    """Whether the auditor is at work in some thread, as where this one was interrupted.

    Any line that makes an object may collect garbage, also one that compares the lists of the account to be closed.
    """
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return any(map(_is_in_books, [interrupted, *frames.values()]))


def _is_in_books(frame: FrameType | None) -> bool:
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_PACKAGE) and module not in _AROUND_THE_PROGRAM:
            return True
        frame = frame.f_back
    return False


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer inside wrappers such as Accelerate's and Fabric's."""
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "param_groups"):
            break
        optimizer = inner
    return optimizer


def _assigned_name(default: str) -> str:
    """The variable on the left of the source line that is being executed, or a plain name."""
    frame = user_frame(3)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if frame else ""
    match = re.match(r"\s*(?:self\.)?(\w+)\s*(?::[^=]*)?=[^=]", line)
    return match[1] if match else default.replace(" ", "-")
