"""Which parameters belong to which account, and which gradient to which parameter."""

from __future__ import annotations

import gc
import linecache
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from gradledger.auditor.reading.locations import user_frame
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.turns import Turns
from gradledger.ledger import DEFAULT_ACCOUNT

_MAX_INDEX = 100_000


class Registry:
    """The accounts of one audit.

    ``opened`` has every account in order, ``accounts`` those whose optimizer lives. ``owners`` gives a parameter's
    accounts and its position in them, ``gradients`` the same for a gradient, both by identity; ``aliases`` holds
    tensors that were read through ``.data`` and share memory with one of either. Whoever goes over any of them holds
    ``turns``.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self.accounts: dict[str, Account] = {}
        self.opened: list[Account] = []
        self.owners: dict[int, list[tuple[Account, int]]] = {}
        self.gradients: dict[int, tuple[Account, int]] = {}
        self.aliases: dict[int, tuple[Any, Account, int, bool]] = {}
        self._pointers: dict[int, tuple[Account, int]] = {}
        self.on_sharded: Callable[[], None] | None = None
        self._by_optimizer: dict[int, tuple[weakref.ref[Any], Account]] = {}

    def account_of(self, optimizer: Any) -> Account | None:
        """The account of an optimizer, opened when it is first met. Optimizers over the same parameters share one."""
        optimizer = _unwrapped(optimizer)
        with self.turns:
            known = self._by_optimizer.get(id(optimizer))
            if known is not None and known[0]() is optimizer:
                self.refresh(known[1])
                return known[1]
            if not getattr(optimizer, "param_groups", None):
                return None
            account = self._shared_account(optimizer) or self._open_account(optimizer)
            self._follow(optimizer, account)
            return account

    def refresh(self, account: Account) -> None:
        """Take in parameters that were added to the account's optimizer."""
        if account.refresh():
            self._index(account)

    def _follow(self, optimizer: Any, account: Account) -> None:
        """Let the account live as long as its optimizer."""
        identity = id(optimizer)

        def gone(reference: weakref.ref[Any]) -> None:
            self.turns.when_free(lambda: self._optimizer_gone(identity, reference))

        account.optimizer = weakref.ref(optimizer, gone)
        self._by_optimizer[identity] = (account.optimizer, account)

    def _optimizer_gone(self, identity: int, reference: weakref.ref[Any]) -> None:
        """An optimizer was destroyed: its account is closed where no other optimizer has it."""
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
        optimizers = [each for each in gc.get_objects() if issubclass(type(each), torch.optim.Optimizer)]
        for optimizer in optimizers:  # isinstance would wake lazy objects
            self.account_of(optimizer)

    def _shared_account(self, optimizer: Any) -> Account | None:
        wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for account in self.accounts.values():
            if account.positions.keys() == wanted:
                return account
        return None

    def _open_account(self, optimizer: Any) -> Account:
        key = f"account {len(self.opened)}"
        account = Account(key, _assigned_name(key), weakref.ref(optimizer), thread=threading.get_ident())
        account.refresh()
        self.accounts[key] = account
        self.opened.append(account)
        self._index(account)
        return account

    def _close_account(self, account: Account) -> None:
        """Let go of the parameters."""
        for identity in account.positions:
            owners = [pair for pair in self.owners.pop(identity, []) if pair[0] is not account]
            if owners:
                self.owners[identity] = owners
        self._pointers = {key: known for key, known in self._pointers.items() if known[0] is not account}
        for index in (self.gradients, self.aliases):
            for identity in [key for key, known in index.items() if any(part is account for part in known)]:
                del index[identity]
        account.close()
        del self.accounts[account.key]

    def _index(self, account: Account) -> None:
        if account.is_sharded and self.on_sharded is not None:
            self.on_sharded()
            self.on_sharded = None
        for position, parameter in enumerate(account.parameters):
            owners = self.owners.setdefault(id(parameter), [])
            if not any(owner is account for owner, _ in owners):
                owners.append((account, position))
            self._pointers[parameter.data_ptr()] = account, position
            if parameter.grad is not None:
                self.gradients[id(parameter.grad)] = (account, position)

    def gradient_of(self, tensor: Any) -> tuple[Account, int] | None:
        """Whose gradient a tensor is now: one that is gone may have had its identity."""
        known = self.gradients.get(id(tensor))
        return known if known is not None and known[0].parameters[known[1]].grad is tensor else None

    def moved(self, parameter: Any) -> None:
        """A parameter's memory is another one now."""
        for account, position in self.owners.get(id(parameter), ()):
            self._pointers[parameter.data_ptr()] = account, position

    def parameter_at(self, tensor: Any) -> Any:
        """The owned parameter whose memory a tensor shares, from the same place on."""
        try:
            pointer = tensor.data_ptr()
        except RuntimeError:  # no memory of its own, as inside torch.func
            return None
        account, position = self._pointers.get(pointer, (None, 0))
        if account is None or position >= len(account.parameters):
            return None
        parameter = account.parameters[position]
        return parameter if parameter.data_ptr() == pointer and parameter.shape == tensor.shape else None

    def accounts_of(self, parameters: Iterable[Any]) -> list[Account]:
        """The accounts that own any of these parameters."""
        found: dict[str, Account] = {}
        for parameter in parameters:
            for account, _ in self.owners.get(id(parameter), ()):
                found[account.key] = account
        return list(found.values())

    def index_gradients(self, account: Account) -> None:
        """Know the account's present gradients by their identity."""
        gradients = self.gradients
        for position, parameter in enumerate(account.parameters):
            gradient = parameter.grad
            if gradient is not None:
                gradients[id(gradient)] = (account, position)

    def bound_index(self) -> None:
        """Forget gradients of former windows where there are very many."""
        if len(self.gradients) > _MAX_INDEX:
            self.gradients.clear()
            for account in self.accounts.values():
                self.index_gradients(account)

    def release(self) -> None:
        """Let go of every parameter and gradient."""
        for account in self.accounts.values():
            account.close()
        self.accounts.clear()
        self.owners.clear()
        self.gradients.clear()
        self.aliases.clear()
        self._pointers.clear()
        self._by_optimizer.clear()

    @property
    def num_updates(self) -> int:
        """Updates of all accounts together."""
        return sum(account.num_updates for account in self.opened)

    def names(self) -> dict[str, str]:
        """The reported name of each account: the only one is ``main``."""
        used = {account.key: account for account in self.opened if account.is_used}
        if len(used) == 1:
            return dict.fromkeys(used, DEFAULT_ACCOUNT)
        taken: dict[str, int] = {}
        names = {}
        for key, account in used.items():
            taken[account.name] = number = taken.get(account.name, 0) + 1
            names[key] = account.name if number == 1 else f"{account.name}-{number}"
        return names


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
