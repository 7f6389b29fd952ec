"""``gradledger verify``."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any

import typer

from gradledger.blaming import blaming
from gradledger.cli._console import make_console, write
from gradledger.cli._target import KEYS, call_target
from gradledger.errors import UserError


class _Format(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


_OPTIONS = ("micro_batch_size", "weight", "reduction", "precision", "accumulate_dtype")
_STEP_OPTIONS = ("step_fn", "optimizer", "num_updates", "clip_norm")


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CALLABLE",
            help="A callable without arguments that returns (model, loss_fn, batch), or a mapping with these and any "
            "option of gradledger.verify or verify_step. MODULE is a dotted name or a .py file.",
        ),
    ],
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Samples per micro-batch; default: about a third of the batch.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Working precision: 32-true, bf16-mixed, 16-mixed or bf16-true.")
    ] = None,
    reduction: Annotated[str | None, typer.Option(help="Whether the loss is a mean or a sum.")] = None,
    output_format: Annotated[_Format, typer.Option("--format", help="text or json.")] = _Format.TEXT,
) -> None:
    """Prove that micro-batches come to the whole batch on your model, or name what breaks it.

    Exit status: 0 exact, 1 not exact or not comparable, 2 wrong usage.
    """
    given = call_target(target)
    _refuse_unknown(target, given)
    chosen = {"micro_batch_size": micro_batch_size, "precision": precision, "reduction": reduction}
    given.update({key: value for key, value in chosen.items() if value is not None})
    with blaming(target):
        if given.get("micro_batch_size") is None:
            given["micro_batch_size"] = _uneven_size(given["batch"])
        result = _verify(given)
    if output_format is _Format.JSON:
        write(json.dumps(_plain(result.to_json()), indent=2, allow_nan=False) + "\n")
    else:
        from gradledger.verifier.text import as_rich

        make_console(width_without_terminal=110).print(as_rich(result), highlight=False)
    raise typer.Exit(0 if result.is_exact else 1)


def _verify(given: dict[str, Any]) -> Any:
    import gradledger.verifier as verifier

    model, loss_fn, batch = (given.pop(key) for key in KEYS)
    if "step_fn" in given:
        return verifier.verify_step(given.pop("step_fn"), model, loss_fn, batch, **given)
    return verifier.verify(model, loss_fn, batch, **given)


def _uneven_size(batch: Any) -> int:
    """About a third of the batch, so that the last micro-batch is shorter where that can be."""
    from gradledger.engine.batches.nesting import count_samples

    num_samples = count_samples(batch)
    third = max(1, num_samples // 3)
    return next((size for size in range(third, num_samples // 2 + 2) if num_samples % size), third)


def _refuse_unknown(target: str, given: dict[str, Any]) -> None:
    unknown = set(given) - {*KEYS, *_OPTIONS, *_STEP_OPTIONS}
    if unknown:
        raise UserError(
            f"{target} returned the unknown keys {', '.join(sorted(map(str, unknown)))}: it may return "
            f"{', '.join((*KEYS, *_OPTIONS, *_STEP_OPTIONS))}"
        )


def _plain(value: Any) -> Any:
    """Plain data with infinities and NaNs as text: JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value
