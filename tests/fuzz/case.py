"""One case: a command line, the files it meets, and what must hold when it has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ANY_STATUS = frozenset({0, 1, 2})
"""What all commands may end with: nothing found, findings (or a failed training), wrong usage or unreadable input."""

RUN_STATUSES = ANY_STATUS | {130, 143}
"""Of ``train`` and ``compare``: interrupted and terminated beside."""


@dataclass(frozen=True)
class Case:
    """A command line and its surroundings; the files are in place already.

    Args:
        arguments: What follows ``gradledger``.
        stdin: What standard input holds.
        encoding: Of standard output and standard error.
        stdout: A file that standard output goes to instead of one that is looked at, such as ``/dev/full``.
        closed: Standard streams, by number, that the command is started without.
        writes: Files and folders, relative to the working directory, that the command may make, change or remove.
        statuses: What it may end with.
        json: Standard output must be JSON where the status is not 2.
        call: Called instead of the command line; a ``ValueError`` counts as a clear refusal.
    """

    arguments: tuple[str, ...] = ()
    stdin: bytes = b""
    encoding: str = "utf-8"
    stdout: str | None = None
    closed: tuple[int, ...] = ()
    writes: tuple[str, ...] = ()
    statuses: frozenset[int] = ANY_STATUS
    json: bool = False
    call: Callable[[], object] | None = None


Maker = Callable[[Random, Path, Path], Case]
"""Makes a case from chance, the known-good inputs and the (empty) working directory that it puts its files into."""


@dataclass(frozen=True)
class Target:
    """What is fed with bad input.

    Args:
        name: As the table calls it.
        share: Its part of all cases.
        make: Makes one case.
    """

    name: str
    share: int
    make: Maker


PROBLEMS = ("unclear", "tracebacks", "hangs", "writes outside", "unescaped")
"""What no case may have, as the table's columns."""


@dataclass
class Outcome:
    """What became of a case.

    Args:
        accepted: The command took the input; otherwise it refused it.
        problems: Details by column of the table.
        seconds: How long it took, with its preparation.
    """

    accepted: bool
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
