"""Targets: what ``report`` reads: run directories, comparisons, files of findings."""

from __future__ import annotations

from pathlib import Path
from random import Random
from shutil import copy, copytree

from fuzz import hostile, mutating, places
from fuzz.case import Case

_FILES = ("metrics.jsonl", "metrics.jsonl", "ledger.jsonl", "ledger.jsonl", "config.yaml")
_FORMATS = ("html", "html", "markdown", "json")


def damage(path: Path, rng: Random, *, values: float = 0.7) -> None:
    """Change a file of JSON: its values mostly, or its bytes, or what is in its place."""
    if path.is_symlink() or not path.is_file():
        return  # something odd is there already
    kind, raw = rng.random(), path.read_bytes()
    if kind < values and path.suffix != ".yaml":
        path.write_bytes(mutating.json_with_other_values(raw, rng))
    elif kind < 0.93:
        path.write_bytes(mutating.damaged(raw, rng))
    else:
        places.put_something_odd(path, rng)


def make_run(rng: Random, good: Path, work: Path) -> Case:
    """A run directory with damaged files."""
    run = work / rng.choice(("run", "run", "run", hostile_name(rng)))
    run.mkdir()
    for name in {*_FILES}:
        copy(good / "runs" / "run" / name, run / name)
    for _ in range(rng.choice((1, 1, 2))):
        damage(run / rng.choice(_FILES), rng)
    if rng.random() < 0.05:
        damaged = run / rng.choice(
            ("ledger-rank-1.jsonl", "ledger-rank-x.jsonl", "ledger-rank-²" + "9" * 40 + ".jsonl")
        )
        copy(good / "runs" / "run" / "ledger.jsonl", damaged)
        damage(damaged, rng)
    return _report(run, rng)


def make_comparison(rng: Random, good: Path, work: Path) -> Case:
    """A comparison with a damaged summary or damaged runs."""
    root = work / "compared"
    copytree(good / "runs" / "compared", root)
    files = [path for path in root.rglob("*.json*") if path.is_file()]
    for path in [root / "compare.json", *rng.sample(files, 1)][rng.randrange(2) :]:
        damage(path, rng, values=0.85)
    if rng.random() < 0.1:
        (root / "loop").symlink_to(".")
    return _report(root, rng)


def make_findings(rng: Random, good: Path, work: Path) -> Case:
    """A damaged result of ``audit``, ``lint``, ``verify`` or ``plan``."""
    path = work / f"{rng.choice(('audit', 'lint', 'verify', 'plan'))}.json"
    copy(good / "results" / path.name, path)
    copy(good / "script.py", work / "script.py")
    damage(path, rng, values=0.85)
    return _report(path, rng)


def _report(path: Path, rng: Random) -> Case:
    format_name = rng.choice(_FORMATS)
    page = path.name + "/report.html" if path.is_dir() else path.with_suffix(".html").name
    arguments, writes = ["report", path.name, "--format", format_name], [page]
    if rng.random() < 0.15:
        arguments += ["--output", "page.md"]
        writes.append("page.md")
    if rng.random() < 0.08:
        arguments += ["--tensorboard", "events"]
        writes.append("events")
    return Case(
        tuple(arguments),
        encoding=rng.choice(("utf-8", "utf-8", "ascii")),
        writes=tuple(writes),
        json=format_name == "json" and "page.md" not in arguments,
    )


def hostile_name(rng: Random) -> str:
    """A folder's name."""
    name = hostile.text(rng).replace("/", "_").replace("\0", "")[:60].encode("utf-8", errors="replace")
    return name.decode().strip("-") or "run"
