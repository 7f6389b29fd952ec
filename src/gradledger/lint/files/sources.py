"""Source files: Python text, and notebooks whose code cells are one program."""

from __future__ import annotations

import ast
import json
import re
import tokenize
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from gradledger.ledger import Location


class UnreadableSourceError(Exception):
    """A file cannot be parsed.

    Args:
        file: Its name.
        line: The line that is wrong, from 1.
        reason: What is wrong.
    """

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: cannot be parsed: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one program.

    Args:
        file: The file's name.
        text: Its Python code; for a notebook, all code cells joined.
        cells: For a notebook, the cell (from 1) and the line in it of each line of the text.
    """

    file: str
    text: str
    cells: tuple[tuple[int, int], ...] = ()

    def place(self, location: Location) -> Location:
        """Where a line of the text is for its reader: in a notebook, ``book.ipynb#cell3`` and the line in the cell."""
        if self.cells and 0 < location.line <= len(self.cells):
            cell, inner = self.cells[location.line - 1]
            return Location(f"{self.file}#cell{cell}", inner)
        return location

    def lines(self) -> list[str]:
        """The lines as Python counts them: text has more kinds of line ends than source code."""
        return _LINE_END.split(self.text)

    def line_at(self, location: Location) -> str:
        """The text of a line, by the place its reader knows it by."""
        number = location.line
        if self.cells:
            cell = int(location.file.rpartition("#cell")[2])
            number = self.cells.index((cell, location.line)) + 1
        lines = self.lines()
        return lines[number - 1] if 0 < number <= len(lines) else ""

    def tree(self) -> ast.Module:
        """The parsed text.

        Raises:
            UnreadableSourceError: It is no valid Python.
        """
        if "\0" in self.text:
            line = len(_LINE_END.split(self.text.partition("\0")[0]))
            raise self._unreadable(line, "it contains a null byte")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self.text)
        except SyntaxError as error:
            raise self._unreadable(error.lineno or 1, error.msg or "invalid syntax") from None
        except (RecursionError, MemoryError):
            raise self._unreadable(1, "it nests too deeply") from None
        except ValueError as error:
            raise self._unreadable(1, str(error)) from None

    def _unreadable(self, line: int, reason: str) -> UnreadableSourceError:
        return UnreadableSourceError(*self.place(Location(self.file, line)), reason)


def source_of(content: bytes, file: str) -> Source:
    """The source in a file's bytes.

    Raises:
        UnreadableSourceError: The bytes are no text, or no notebook.
    """
    if Path(file).suffix == ".ipynb":
        return _notebook(content, file)
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(content).readline)
        return Source(file, content.decode(encoding))
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableSourceError(file, 1, str(error)) from None


_LINE_END = re.compile(r"\r\n?|\n")
_MAGIC = re.compile(r"^(\s*)(?:[%!?].*|[\w.]+\?{1,2}\s*)$")
_CAPTURED = re.compile(r"^([\w.,\s\[\]\"']+=\s*)[%!].*$")


def _notebook(content: bytes, file: str) -> Source:
    try:
        cells: list[dict[str, Any]] = json.loads(content)["cells"]
        codes = [(number, cell) for number, cell in enumerate(cells, start=1) if cell["cell_type"] == "code"]
        texts = [(number, "".join(cell["source"])) for number, cell in codes]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableSourceError(file, 1, f"not a notebook ({type(error).__name__}: {error})") from None
    lines: list[str] = []
    places: list[tuple[int, int]] = []
    for number, text in texts:
        if text.startswith("%%") and not text.startswith(("%%time", "%%capture")):
            continue
        for inner, line in enumerate(_python_lines(text), start=1):
            lines.append(line)
            places.append((number, inner))
    return Source(file, "\n".join(lines) + "\n", tuple(places))


def _python_lines(cell: str) -> list[str]:
    """The lines of a cell; where it is no plain Python, those for IPython give way, and the others keep their place."""
    lines = _LINE_END.split(cell)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [_without_magic(line) for line in lines]
    return lines


def _without_magic(line: str) -> str:
    if match := _CAPTURED.match(line):
        return f"{match[1]}None"
    match = _MAGIC.match(line)
    return f"{match[1]}pass" if match else line
