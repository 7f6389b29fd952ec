"""``gradledger plan``."""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gradledger.blaming import blaming
from gradledger.cli._console import tell, write
from gradledger.cli._target import KEYS, call_target
from gradledger.errors import UserError
from gradledger.printing import make_console

_OPTIONS = ("optimizer", "precision", "accumulate_dtype", "checkpointing", "offload", "max_seconds")
_NO_FIT_STATUS = 1


class _Format(enum.StrEnum):
    TEXT = "text"
    JSON = "json"
    HTML = "html"


def plan(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CALLABLE",
            help="A callable without arguments that returns (model, loss_fn, batch), or a mapping with these and "
            "optimizer, precision, accumulate_dtype, checkpointing, offload or max_seconds. MODULE is a dotted name or "
            "a .py file.",
        ),
    ],
    effective_batch: Annotated[
        int | None, typer.Option(help="Samples of one update, over all ranks. Default: the batch's.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What there is, such as 24GB. Default: what is free here.")] = None,
    ranks: Annotated[int, typer.Option(help="Predict up to so many ranks.")] = 1,
    bandwidth: Annotated[str, typer.Option(help="Bytes per second of a rank's link, such as 25GB.")] = "10GB",
    latency: Annotated[float, typer.Option(help="Seconds of one step of an all-reduce.")] = 20e-6,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Plan with blocks that are run again in the backward.")
    ] = False,
    offload: Annotated[str | None, typer.Option(help="cpu: plan with accumulated gradients in host memory.")] = None,
    output_format: Annotated[_Format, typer.Option("--format", help="text, json or html.")] = _Format.TEXT,
    output: Annotated[Path | None, typer.Option(help="Write to a file instead of standard output.")] = None,
) -> None:
    """Measure memory and time by micro-batch size, and choose the micro-batch and the number of steps.

    Exit status: 0, 1 when not even one sample fits, 2 wrong usage.
    """
    # What a target gives to other commands beside is left to them.
    given = {key: value for key, value in call_target(target).items() if key in (*KEYS, *_OPTIONS)}
    from gradledger.planner import Link
    from gradledger.planner import plan as make_plan
    from gradledger.planner.planning import parse_bytes

    model, loss_fn, batch = (given.pop(key) for key in KEYS)
    given |= {"checkpointing": True} if checkpointing else {}
    given |= {} if offload is None else {"offload": offload}
    link = Link(parse_bytes(bandwidth), latency)
    with blaming(target):
        made = make_plan(
            model,
            loss_fn,
            batch,
            effective_batch_size=effective_batch,
            memory=memory,
            num_ranks=ranks,
            link=link,
            **given,
        )
    text = _written(made, output_format, is_for_file=output is not None)
    if output is None:
        write(text if text.endswith("\n") else text + "\n", styled=True)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{output} cannot be written: {error.strerror}") from None
        tell(f"plan written to {output}: {made.verdict}")
    raise typer.Exit(0 if made.recommended is not None else _NO_FIT_STATUS)


def _written(made: Any, output_format: _Format, *, is_for_file: bool) -> str:
    if output_format is _Format.JSON:
        return json.dumps({"version": 1, "findings": [], "plan": made.to_json()}, indent=2, allow_nan=False) + "\n"
    if output_format is _Format.HTML:
        from gradledger.planner.page import as_html

        return as_html(made)
    from gradledger.planner.text import as_rich

    is_terminal = sys.stdout.isatty() and not is_for_file
    console = make_console(width=None if is_terminal else 132, highlight=False, force_terminal=is_terminal)
    with console.capture() as captured:
        console.print(as_rich(made))
    return captured.get()
