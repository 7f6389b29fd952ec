"""Which line of the user's own source an event comes from."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from gradledger.ledger import Location

_PACKAGE = str(Path(__file__).resolve().parents[2]) + os.sep
_ENGINE = os.path.join(_PACKAGE, "engine") + os.sep
_LIBRARY_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_ACCELERATOR = os.path.join("accelerate", "accelerator.py")
_INTERACTIVE = ("<stdin>", "<ipython-input", "<doctest")

_is_user_code: dict[str, bool] = {}


def is_user_file(file: str) -> bool:
    """Not Python's, torch's, an installed package's or this package's."""
    known = _is_user_code.get(file)
    if known is None:
        known = _is_user_code[file] = _classify(file)
    return known


def _classify(file: str) -> bool:
    if file.startswith("<"):
        return file.startswith(_INTERACTIVE)
    path = os.path.abspath(file)
    if path.startswith(_PACKAGE) or any(part in path for part in _LIBRARY_PARTS):
        return False
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return not any(path.startswith(os.path.abspath(folder) + os.sep) for folder in standard if folder)


def user_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of the user's code, from this one outwards."""
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def user_frame(skip: int = 1) -> FrameType | None:
    """The innermost frame of the user's code, not counting ``skip`` callers."""
    return next(user_frames(sys._getframe(skip)), None)


def location_of(frame: FrameType | None) -> Location | None:
    """The line that a frame is at."""
    return None if frame is None else Location(frame.f_code.co_filename, frame.f_lineno)


def user_location() -> Location | None:
    """The line of the user's source that is being executed."""
    return location_of(user_frame(2))


def steps_of_trainer() -> int | None:
    """The micro-batches of a window, where Accelerate's ``backward`` is what runs: it has divided the loss by them."""
    if "accelerate" not in sys.modules:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        if frame.f_code.co_name == "backward" and frame.f_code.co_filename.endswith(_ACCELERATOR):
            return getattr(frame.f_locals.get("self"), "gradient_accumulation_steps", None)
        frame = frame.f_back
    return None


def inside_engine() -> bool:
    """Gradledger's own engine is at work: what it zeroes inside a window, it gives up on purpose."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith(_ENGINE):
            return True
        frame = frame.f_back
    return False
