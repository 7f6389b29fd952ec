"""Text from files and users as it may be shown: nothing in it can move a cursor, hide a line or fail to be written."""

from __future__ import annotations

import re
import reprlib
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_NOT_PRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and newline, those that turn the direction of text, and halves of characters."""


def printable(text: str) -> str:
    r"""The text with characters that are not to be shown written as Python writes them; tabs and newlines stay.

    Example:
        >>> printable("\x1b[31mred\x1b[0m\n")
        '\\x1b[31mred\\x1b[0m\n'
    """
    return _NOT_PRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shortened(text: str, most: int = 2000) -> str:
    """The text, or its beginning and its end where it is longer than ``most`` characters.

    Example:
        >>> shortened("a" * 50 + "the end", 30)
        'aaaaaaaaaaaaaaa … aaaaathe end'
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} … {text[-(most // 2 - 3) :]}"


def shown(value: Any) -> str:
    """A value as Python writes it, but short, however much of it there is.

    Example:
        >>> shown({"lr": 0.1, "betas": [0.9, 0.999]}), shown(["x"] * 1000)
        ("{'lr': 0.1, 'betas': [0.9, 0.999]}", "['x', 'x', 'x', 'x', 'x', 'x', ...]")
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return f"a value of type {type(value).__name__} that is too large to be shown"


class _Short(reprlib.Repr):
    """Mappings in their own order."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 100
        self.maxlevel = 3

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if value and level <= 0:
            return "{...}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value[key], level - 1)}" for key in islice(value, self.maxdict)
        ]
        return "{" + ", ".join([*items, *(["..."] if len(value) > self.maxdict else [])]) + "}"


_SHORT = _Short()


def make_console(**options: Any) -> Console:
    """A rich console that shows text as :func:`printable` has it, whatever it is asked to print.

    Args:
        **options: As for ``rich.console.Console``.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Any:
            for segment in super().render(renderable, options):
                is_shown = segment.control is None and _NOT_PRINTABLE.search(segment.text)
                yield Segment(printable(segment.text), segment.style) if is_shown else segment

    return PrintableConsole(**options)
