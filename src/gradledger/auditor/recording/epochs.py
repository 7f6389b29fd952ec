"""Where one pass over the training data ends and the next begins.

A ``DataLoader`` says so itself. Where there is none, the user's loops do: the innermost loop around a backward (the one
that also holds a step, if one does) is the pass over micro-batches; a new pass begins when a loop around it moves on,
or when it is left and entered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FrameType
from typing import Any

from gradledger.auditor.reading.locations import user_frame, user_frames
from gradledger.auditor.reading.loops import Loop, pass_of, position_of
from gradledger.auditor.recording.account import Account
from gradledger.auditor.recording.journal import Journal
from gradledger.auditor.recording.registry import Registry
from gradledger.ledger import EpochEnd, EpochStart


@dataclass(frozen=True, slots=True)
class LoaderPass:
    """One pass over a ``DataLoader``.

    Args:
        number: Unique in this audit.
        loader: Identity of the loader.
        dataset: Identity of its dataset: some programs build a new loader for each epoch.
        num_micro_batches: Its length, where it has one.
    """

    number: int
    loader: int
    dataset: int
    num_micro_batches: int | None

    def follows(self, other: LoaderPass) -> bool:
        """Another pass over the same data."""
        return self.loader == other.loader or self.dataset == other.dataset


class EpochWatch:
    """Marks the borders between epochs in the journal.

    Args:
        registry: Whose accounts are told.
        journal: Where the marks are written.
    """

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self.registry = registry
        self.journal = journal
        self.epoch = 0
        self.num_passes = 0
        self.current: LoaderPass | None = None
        self.fetched: dict[int, LoaderPass] = {}
        self.ended = False
        self.is_over = False
        self.position: tuple[Any, ...] | None = None
        self.loop: tuple[str, Loop] | None = None

    # DataLoaders

    def open_pass(self, loader: Any) -> LoaderPass:
        """An iterator over a loader was made."""
        self.num_passes += 1
        return LoaderPass(self.num_passes, id(loader), id(loader.dataset), _length(loader))

    def fetch(self, loader_pass: LoaderPass) -> None:
        """A micro-batch was taken from a loader."""
        with self.registry.turns:
            self._flush()
            self.fetched[loader_pass.number] = loader_pass

    def exhausted(self, loader_pass: LoaderPass) -> None:
        """A loader came to its end."""
        with self.registry.turns:
            if loader_pass is self.current:
                self.ended = self.is_over = True

    def _flush(self) -> None:
        if self.ended:
            self.ended = False
            self._mark(ended=True)

    # Events

    def before_backward(self, frame: FrameType | None) -> None:
        """A backward took place: note which pass it belongs to."""
        if self.fetched:
            self._follow_loader()
        elif self.current is None:
            self._follow_loops(frame)

    def before_zero(self, account: Account, left_loop: bool) -> None:
        """A zeroing: an epoch that has ended is marked before it."""
        self._flush()
        if left_loop and account.in_epoch:
            self._border()

    def has_left_loop(self, account: Account) -> bool:
        """The program is no longer in the loop over micro-batches, or in another pass of it."""
        if self.current is not None or self.loop is None or not account.in_epoch:
            return False
        return not self._in_loop()

    def before_step(self, account: Account) -> None:
        """A step: an epoch that has ended is marked before it."""
        self._flush()

    def _follow_loader(self) -> None:
        fetched = list(self.fetched.values())
        self.fetched.clear()
        if self.current in fetched and not self.is_over:
            return
        before, self.current = self.current, fetched[0]
        if before is not None and not self.is_over and fetched[0].follows(before):
            self._mark(ended=False, num_micro_batches=fetched[0].num_micro_batches)
        self.is_over = False

    def _follow_loops(self, frame: FrameType | None) -> None:
        found = pass_of(frame)
        if found is None:
            return
        loop, position = found
        if self.position is not None and position != self.position:
            self._border()
        self.loop, self.position = loop, position

    def _border(self) -> None:
        self._mark(ended=False)
        self.position = None

    def _mark(self, *, ended: bool, num_micro_batches: int | None = None) -> None:
        """An epoch's border, told to every account that had a micro-batch in it."""
        for account in self.registry.accounts.values():
            if not account.in_epoch:
                continue
            if ended:
                self.journal.add(account, EpochEnd(epoch=self.epoch))
            else:
                self.journal.add(account, EpochStart(epoch=self.epoch, num_micro_batches=num_micro_batches))
            account.in_epoch = False
            account.lines_of_micro_batch.clear()
        self.epoch += 1

    def _in_loop(self) -> bool:
        """The program is still inside the loop of the last backward, in the same pass."""
        assert self.loop is not None
        file, loop = self.loop
        frame = user_frame(2)
        for outer in user_frames(frame):
            if outer.f_code.co_filename == file and loop.holds(outer.f_lineno):
                return self.position is None or position_of(outer, loop) == self.position
        return False


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
