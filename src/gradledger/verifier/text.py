"""A verification as text for a terminal."""

from __future__ import annotations

import math
from io import StringIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradledger.printing import make_console
from gradledger.verifier.result import ParameterError, Verification

_MAX_ROWS = 16
_STYLES = {"exact": "bold green", "not exact": "bold red", "not comparable": "bold yellow"}


def to_text(result: Verification, *, width: int = 110) -> str:
    """The result without colour."""
    stream = StringIO()
    make_console(file=stream, width=width, no_color=True, highlight=False).print(as_rich(result))
    return stream.getvalue().rstrip("\n")


def as_rich(result: Verification) -> RenderableType:
    """The result for a rich console: verdict, cause, and a table of parameters."""
    verdict = Text(result.verdict, style=_STYLES[result.verdict])
    verdict.append(
        f": {result.checked}, {result.num_micro_batches} micro-batches against the whole batch, in {result.precision}",
        style="default not bold",
    )
    blocks: list[RenderableType] = [verdict]
    if result.cause is not None:
        blocks.append(Text.assemble(("cause  ", "bold"), f"{result.cause.slug}: {result.cause.message}"))
        blocks.append(Text.assemble(("fix    ", "bold"), result.cause.fix))
    blocks += [Text.assemble(("note   ", "bold"), note) for note in result.notes]
    if result.parameters:
        blocks.append(_table(result))
    return Group(*blocks)


def _table(result: Verification) -> Table:
    shown = sorted(result.parameters, key=_badness, reverse=True)[:_MAX_ROWS]
    is_double = all(parameter.error == parameter.error_exact for parameter in result.parameters)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("parameter", overflow="fold")
    for heading in (
        ("error", "tolerance") if is_double else ("error", "tolerance", f"in {result.exact_type}", "tolerance")
    ):
        table.add_column(heading, justify="right")
    table.add_column("")
    for parameter in shown:
        values = [parameter.error, parameter.tolerance]
        if not is_double:
            values += [parameter.error_exact, parameter.tolerance_exact]
        mark = Text("exact", "green") if parameter.is_exact else Text("not exact", "red")
        table.add_row(parameter.name, *(f"{value:.1e}" for value in values), mark)
    hidden = len(result.parameters) - len(shown)
    if hidden:
        exact = sum(parameter.is_exact for parameter in result.parameters) - sum(p.is_exact for p in shown)
        table.add_row(f"and {hidden} more, {exact} of them exact")
    return table


def _badness(parameter: ParameterError) -> float:
    pairs = ((parameter.error, parameter.tolerance), (parameter.error_exact, parameter.tolerance_exact))
    return max(error / tolerance if tolerance else math.inf * error if error else 0.0 for error, tolerance in pairs)
