"""Errors that come out of code that is not this package's: one line, with its place in the user's own code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradledger.errors import UserError

_PACKAGE = str(Path(__file__).parent)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def explained(error: BaseException) -> str:
    """What was raised, in one line, and the last line of the user's own code that led to it."""
    text = " ".join(str(error).split())
    place = next(
        (f" ({frame.filename}, line {frame.lineno})" for frame in reversed(_frames(error)) if _is_own(frame)), ""
    )
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def is_foreign(error: BaseException) -> bool:
    """Whether the line that raised is not of this package."""
    frames = _frames(error)
    return bool(frames) and not frames[-1].filename.startswith(_PACKAGE)


@contextmanager
def blaming(target: str) -> Iterator[None]:
    """Around work on what the user's ``target`` gave, which may fail in any way.

    Raises:
        UserError: It failed; the message says how and where.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"what {target} gives fails with {explained(error)}") from error


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _is_own(frame: traceback.FrameSummary) -> bool:
    is_file = not frame.filename.startswith("<")
    return is_file and not frame.filename.startswith((_PACKAGE, *_INSTALLED))
