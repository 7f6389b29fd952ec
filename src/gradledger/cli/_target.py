"""MODULE:CALLABLE: the user's callable that gives a command its model, loss function and batch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gradledger.blaming import explained
from gradledger.errors import UserError

KEYS = ("model", "loss_fn", "batch")
"""What every target gives."""


def call_target(target: str) -> dict[str, Any]:
    """What the target returns, as a mapping with at least :data:`KEYS`.

    Args:
        target: ``MODULE:CALLABLE``, the module as a dotted name or a ``.py`` file.

    Raises:
        UserError: It is not of that form, cannot be imported, fails, or returns something else.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UserError(f"{target!r} is no MODULE:CALLABLE, such as train.py:make or package.module:make")
    make = getattr(_module(place), name, None)
    if not callable(make):
        raise UserError(f"{place} has no callable {name!r}")
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise UserError(f"{target} failed: {explained(error)}") from error
    if isinstance(made, tuple) and len(made) == len(KEYS):
        return dict(zip(KEYS, made, strict=True))
    if not isinstance(made, dict) or set(KEYS) - set(made):
        raise UserError(
            f"{target} must return (model, loss_fn, batch), or a dict with these keys, not {_described(made)}"
        )
    return dict(made)


def _described(made: Any) -> str:
    if isinstance(made, dict):
        return f"a dict with {', '.join(map(str, made)) or 'no keys'}"
    return f"a tuple of {len(made)}" if isinstance(made, tuple) else f"something of type {type(made).__name__}"


def _module(place: str) -> ModuleType:
    """A module by its dotted name or by its file; modules beside it can be imported, as when Python runs it."""
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"there is no file {place}")
    sys.path.insert(0, str(path.resolve().parent if is_file else Path.cwd()))
    try:
        if not is_file:
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{place} cannot be imported: {explained(error)}") from error
    return module
