"""Targets: what ``lint`` reads: source files, notebooks, folders of them, and a project's settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from shutil import copy

from fuzz import mutating, places
from fuzz.case import Case

_WORDS = (
    b"*", b"**", b"lambda: 0", b"yield", b"await", b"async", b"None", b"0", b"-1", b"1e999", b"10**10**10",
    b"1 << 10**9", b"'a' * 10**12",
    b"[0] * 10**12", b"range(10**15)", b"while True:\n", b"del", b"global loss", b"nonlocal x", b"return", b"break",
    b"continue", b"class",
    b"[]", b"{}", b"()", b"...", b":=", b"@", b"%", b"//", b"not", b"in", b"is", b"if", b"else", b"__class__",
    b"__dict__", b"self", b"model",
    b"optimizer", b"loss", b"zip", b"enumerate", b"iter", b"next", b"map", b"sorted", b"max", b"sum", b"int", b"str",
    b"'%d'", b"f'{x!r:>{9}}'",
    b"match", b"type", b"exec", b"eval", b"__import__", b"super()", b"len", b"open", b"print", b"input()", b"exit()",
    b"raise", b"try:",
    b"except* E:", b"assert", b"with", b"from", b"import", b"9" * 5000, b"'\\ud800'", b"'\\x1b[31m'", b"b'\\xff'",
    b"1j", b"1_0", b"0xf" * 20,
    b"# gradledger: ignore", b"# gradledger: ignore[", b"# gradledger: ignore[nothing]",
)  # fmt: skip
_SETTINGS = b"""\
[tool.gradledger]
select = ["GL1", "mean-of-means"]
ignore = ["GL204"]
exclude = ["build/", "*.gen.py", "a[!b]c"]
"""
_IGNORED = b"build/\n!keep.py\n*.tmp\n/root\n**/x/**/y.py\n[a-z]?.py\n"
_GLOBS = (
    b"[",
    b"[]",
    b"[!]",
    b"[z-a]",
    b"[\\",
    b"**" * 60,
    b"*a" * 60,
    b"!",
    b"/",
    b"\\",
    b"[[:alpha:]]",
    b"a{1,2}",
    b"(?",
    b"[^",
    b"[a&&b]",
)


@cache
def _paths(good: Path) -> tuple[Path, ...]:
    return tuple(sorted((good / "sources").iterdir()))


def make_source(rng: Random, good: Path, work: Path) -> Case:
    """A training script or notebook with tokens, values or bytes changed."""
    source = rng.choice(_paths(good))
    raw = source.read_bytes()
    kind = rng.random()
    if source.suffix == ".ipynb" and kind < 0.6:
        raw = mutating.json_with_other_values(raw, rng)
    elif kind < 0.75:
        raw = mutating.reworded(raw, rng, _WORDS)
    else:
        raw = mutating.damaged(raw, rng)
    if rng.random() < 0.05:
        return _lint(rng, ("-", "--stdin-filename", places.odd_name(rng)), stdin=raw)
    name = places.odd_name(rng) if rng.random() < 0.15 else f"script{source.suffix}"
    (work / name).write_bytes(raw)
    return _lint(rng, (f"./{name}",), files=(name,))


def make_folder(rng: Random, good: Path, work: Path) -> Case:
    """A folder with odd things in it, and settings that are damaged."""
    copy(good / "script.py", work / "script.py")
    inner = work / "inner"
    inner.mkdir()
    for _ in range(rng.randrange(1, 4)):
        places.put_something_odd(inner / rng.choice(("a.py", "b.ipynb", "c")), rng) if not any(
            inner.iterdir()
        ) else None
    if rng.random() < 0.3:
        (inner / "up").symlink_to("..")
    for name, text in (("pyproject.toml", _SETTINGS), (".gitignore", _IGNORED)):
        if rng.random() < 0.6:
            (work / name).write_bytes(
                mutating.reworded(text, rng, _GLOBS) if rng.random() < 0.6 else mutating.damaged(text, rng)
            )
        elif rng.random() < 0.2:
            places.put_something_odd(work / name, rng)
    paths = rng.choice((("inner",), (".",), ("inner/a.py",), ("inner", "script.py"), ("inner/up/inner/a.py",), ()))
    return _lint(rng, paths)


def _lint(rng: Random, paths: tuple[str, ...], stdin: bytes = b"", files: tuple[str, ...] = ()) -> Case:
    format_name = rng.choice(("text", "text", "json", "sarif", "github"))
    more = rng.choice(
        ((),) * 6 + (("--verbose",), ("--statistics",), ("--fix",), ("--diff",), ("--output", "found.txt"))
    )
    return Case(
        ("lint", "--format", format_name, *more, *paths),
        stdin=stdin,
        encoding=rng.choice(("utf-8", "utf-8", "ascii")),
        writes=(*(files if "--fix" in more else ()), *(("script.py", "inner") if "--fix" in more else ()), "found.txt"),
        json=format_name in ("json", "sarif") and not more,
    )
