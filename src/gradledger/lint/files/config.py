"""``[tool.gradledger]`` in the nearest ``pyproject.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class Config:
    """What a project chose.

    Args:
        select: Only these rules. Empty: all.
        ignore: Not these rules.
        exclude: Paths to leave out, as in ``.gitignore``.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def read_config(start: Path) -> Config:
    """The configuration of the project that a folder belongs to; the defaults where there is none.

    Raises:
        UserError: The file is no TOML, or a key or value in the table cannot be used.
    """
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            return _config_in(path)
    return Config()


def _config_in(path: Path) -> Config:
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("gradledger", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    known = [field.name for field in fields(Config)]
    values: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{path}: [tool.gradledger] has no key {key!r}: it takes {', '.join(known)}")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: [tool.gradledger] {key} = {value!r} must be a list of texts")
        values[key] = tuple(value)
    return Config(**values)
