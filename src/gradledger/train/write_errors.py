"""What becomes of a run whose files cannot be written: a full disk, a lost permission, a directory that is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gradledger.errors import UserError
from gradledger.train.config import OnWriteError


class WriteError(UserError):
    """A file of the run cannot be written, and the run stops for it."""


class WriteErrors:
    """Decides what an error of writing means, and says it in one line.

    Args:
        choice: ``"stop"`` ends the run with a :class:`WriteError`. ``"continue"`` goes on: lines wait in memory until
            they can be written, and a checkpoint is tried again when the next one is due.
        tell: Told a line each time that a file begins to fail, or can be written again.
    """

    def __init__(self, choice: OnWriteError = "stop", tell: Callable[[str], None] = lambda _: None) -> None:
        self._choice = choice
        self._tell = tell
        self.failing: set[Path] = set()
        self._is_stopping = False

    @contextmanager
    def guarded(self, path: Path) -> Iterator[None]:
        """Around the writing of a file.

        Raises:
            WriteError: It failed, and that stops the run. Once: what is written while it ends may fail in silence.
        """
        try:
            yield
        except OSError as error:
            self._failed(path, f"{path} cannot be written: {error.strerror or error}")
        else:
            if path in self.failing:
                self.failing.remove(path)
                self._tell(f"{path} can be written again: nothing is missing in it")

    @contextmanager
    def last_chance(self, path: Path) -> Iterator[None]:
        """Around the end of the writing: what fails now is lost, and said to be."""
        try:
            yield
        except OSError as error:
            if not self._is_stopping:
                reason = error.strerror or error
                self._tell(f"{path} is incomplete: what could not be written is lost ({reason})")

    def _failed(self, path: Path, what: str) -> None:
        if self._choice == "stop":
            if self._is_stopping:
                return
            self._is_stopping = True
            raise WriteError(f"{what}: training stops (on_write_error: stop)") from None
        if path not in self.failing:
            self.failing.add(path)
            self._tell(f"{what}: training goes on, and it is tried again (on_write_error: continue)")
