"""``gradledger verify``."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from gradledger.errors import UserError


class _Format(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


_KEYS = ("model", "loss_fn", "batch")
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
    given = _call(target)
    chosen = {"micro_batch_size": micro_batch_size, "precision": precision, "reduction": reduction}
    given.update({key: value for key, value in chosen.items() if value is not None})
    if given.get("micro_batch_size") is None:
        given["micro_batch_size"] = _uneven_size(given["batch"])
    result = _verify(given)
    if output_format is _Format.JSON:
        typer.echo(json.dumps(_plain(result.to_json()), indent=2, allow_nan=False))
    else:
        from rich.console import Console

        from gradledger.verifier.text import as_rich

        console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
        console.print(as_rich(result))
    raise typer.Exit(0 if result.is_exact else 1)


def _verify(given: dict[str, Any]) -> Any:
    import gradledger.verifier as verifier

    model, loss_fn, batch = (given.pop(key) for key in _KEYS)
    if "step_fn" in given:
        return verifier.verify_step(given.pop("step_fn"), model, loss_fn, batch, **given)
    return verifier.verify(model, loss_fn, batch, **given)


def _uneven_size(batch: Any) -> int:
    """About a third of the batch, so that the last micro-batch is shorter where that can be."""
    from gradledger.engine.batches import count_samples

    num_samples = count_samples(batch)
    third = max(1, num_samples // 3)
    return next((size for size in range(third, num_samples // 2 + 2) if num_samples % size), third)


def _call(target: str) -> dict[str, Any]:
    """What the target returns, as a mapping."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise UserError(f"{target!r} is no MODULE:CALLABLE, such as train.py:make or package.module:make")
    make = getattr(_module(place), name, None)
    if not callable(make):
        raise UserError(f"{place} has no callable {name!r}")
    try:
        made = make()
    except Exception as error:
        raise UserError(f"{target} failed: {type(error).__name__}: {error}") from error
    if isinstance(made, tuple) and len(made) == len(_KEYS):
        return dict(zip(_KEYS, made, strict=True))
    if not isinstance(made, dict) or set(_KEYS) - set(made):
        raise UserError(
            f"{target} must return (model, loss_fn, batch), or a dict with these keys, not {_described(made)}"
        )
    unknown = set(made) - {*_KEYS, *_OPTIONS, *_STEP_OPTIONS}
    if unknown:
        raise UserError(
            f"{target} returned the unknown keys {', '.join(sorted(map(str, unknown)))}: it may return "
            f"{', '.join((*_KEYS, *_OPTIONS, *_STEP_OPTIONS))}"
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
    except Exception as error:
        raise UserError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _plain(value: Any) -> Any:
    """Plain data with infinities and NaNs as text: JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value
