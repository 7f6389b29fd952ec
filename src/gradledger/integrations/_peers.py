"""Importing a trainer that may not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gradledger.errors import UserError


@contextmanager
def importing(peer: str) -> Iterator[None]:
    """Around the imports of a trainer, whose name is also that of the extra that installs it.

    Raises:
        UserError: It is not installed.

    Example:
        >>> with importing("some_trainer"):  # doctest: +ELLIPSIS
        ...     import some_trainer
        Traceback (most recent call last):
        gradledger.errors.UserError: gradledger.integrations.some_trainer needs some_trainer, which ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or peer).partition(".")[0]
        raise UserError(
            f"gradledger.integrations.{peer} needs {missing}, which is not installed: pip install 'gradledger[{peer}]'"
        ) from error
