"""Values that programs stumble over."""

from __future__ import annotations

from random import Random
from typing import Any

from fuzz.judging import MARK

TEXTS = (
    "",
    " ",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    f"</script><{MARK} onload=alert(1)>",
    f"\"'><{MARK}>",
    f"x' {MARK}=1 y=\"",
    "a\nb\r\nc\rd",
    "nul\0byte",
    "\x08\x7f\x9b31m",
    "\ud800",
    "\udcff\udc80",
    "\ufeffbom",
    "\u202ereversed",
    "é" * 300,
    "../../outside",
    "/dev/full",
    "%s %n {0} ${HOME} $(id)",
    "[bold]markup[/bold] [/] [link=x]",
    "nan",
    "$tensor",
    "-1",
    "0",
    "1e400",
    "A" * 100_000,
    "🔥",
    "os:abort",
    "null",
)
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-320,
    1e308,
    -1e308, float("inf"), float("-inf"), float("nan"), True, False,
)  # fmt: skip


def text(rng: Random) -> str:
    """A short text, seldom an innocent one."""
    if rng.random() < 0.2:
        return "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0x300), rng.randrange(0x110000)))) for _ in range(8)
        )
    return rng.choice(TEXTS)


def number(rng: Random) -> Any:
    """A number at an edge, or any."""
    return rng.choice(NUMBERS) if rng.random() < 0.8 else rng.choice((rng.uniform(-1e3, 1e3), rng.getrandbits(70)))


def value(rng: Random, depth: int = 2) -> Any:
    """Anything that JSON can hold."""
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return None
    if kind == 1:
        return text(rng)
    if kind in (2, 3):
        return number(rng)
    if kind == 4:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {text(rng): value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return nested(rng.choice((3, 50, 2000, 100_000)), rng.choice(([], {})))


def nested(depth: int, seed: Any) -> Any:
    """Lists or mappings inside each other."""
    made = seed
    for _ in range(depth):
        made = {"a": made} if isinstance(seed, dict) else [made]
    return made
