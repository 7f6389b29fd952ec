"""Target: what stands after ``gradledger``."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from shutil import copy, copytree

from fuzz import hostile, mutating, places
from fuzz.case import RUN_STATUSES, Case

_GOOD = (
    ("train", "config.yaml", "--set", "epochs=1"),
    ("train", "--resume", "auto", "--set", "name=run", "config.yaml"),
    ("train", "config.yaml", "--set", "name=new", "--set", "epochs=1", "--table", "--tensorboard", "events"),
    ("compare", "config.yaml", "--arms", "small-batch", "--seeds", "1", "--set", "epochs=1"),
    ("compare", "config.yaml", "--data", "tiny:data", "--arms", "accumulated", "--seeds", "1"),
    ("audit", "--format", "json", "script.py", "--epochs", "3"),
    ("audit", "--select", "GL1", "--stop-after", "2", "script.py"),
    ("audit", "--output", "audit.txt", "--ignore", "stale-gradient", "script.py"),
    ("lint", "--format", "github", "script.py", "tiny.py"),
    ("lint", "--statistics", "--verbose", "."),
    ("lint", "--output", "lint.json", "--format", "json", "--select", "GL1,GL2", "script.py"),
    ("lint", "--fix", "--diff", "script.py"),
    ("lint", "-", "--stdin-filename", "book.ipynb"),
    ("verify", "tiny:make", "--micro-batch-size", "5", "--precision", "32-true"),
    ("verify", "tiny.py:make", "--format", "json", "--reduction", "mean"),
    ("plan", "tiny:make", "--effective-batch", "64", "--memory", "1GB", "--format", "json"),
    ("plan", "tiny:make", "--ranks", "4", "--bandwidth", "25GB", "--latency", "1e-5", "--output", "plan.html"),
    ("report", "runs/run", "--format", "markdown"),
    ("report", "runs/run", "--output", "page.html", "--tensorboard", "events"),
    ("report", "runs/run", "runs/run", "--format", "json"),
    ("rules",),
    ("rules", "stale-gradient"),
    ("rules", "GL101"),
    ("version",),
    ("--help",),
    ("lint", "--help"),
)
_OPTIONS = (
    "--set", "--resume", "--table", "--watch", "--tensorboard", "--no-cache", "--arms", "--seeds", "--data",
    "--positive-fraction", "--format", "--output", "--select", "--ignore", "--stop-after", "--statistics", "--fix",
    "--diff",
    "--verbose", "--stdin-filename", "--micro-batch-size", "--precision", "--reduction", "--effective-batch",
    "--memory",
    "--ranks", "--bandwidth", "--latency", "--checkpointing", "--offload", "--help", "--", "-", "-v", "--nothing",
)  # fmt: skip
_WORDS = (
    "text", "json", "sarif", "github", "html", "markdown", "GL1", "GL101", "GL999", "all", "default", "broken",
    "auto", "cpu", "nan",
    "inf", "-5", "0", "1", "3", "1e400", "9" * 5000, "0x10", "1_000", "٣", "1TB", "-1GB", "1e30GB", "nanGB",
    "bf16-mixed",
    "16-mixed", "bf16-true", "sum", "mean", "tiny", "tiny:", ":make", "tiny:loss_fn", "tiny:nothing", "nothing:make",
    "os:abort",
    "script.py:model", "config.yaml", "script.py", "runs", "runs/run", "runs/run/checkpoints", "odd", "/dev/full",
    "/dev/null",
    "/dev/zero", "no/such/folder/file", "runs/run/metrics.jsonl", "epochs=1e3", "epochs", "=", "a.b.c=1",
    "optimizer=adamw",
    "optimizer.lr=-1", "optimizer.name.x=1", "model.hidden=[1, {}]", "data=digits", "micro_batch_size=auto",
    "name=../x", "name=a/b",
    "output=/dev/null", "output=odd", "epochs=[", "seed=!!python/object:os.system", "device=cuda:99",
    "steps=999999999999",
)  # fmt: skip
_FILES = ("odd", "audit.txt", "lint.json", "plan.html", "page.html")
_WRITES = (*_FILES, "events", "runs", "report.html", "script.py", "tiny.py", "outside", "tensorboard")


def make(rng: Random, good: Path, work: Path) -> Case:
    """A good command line with words changed, beside the files that it speaks of."""
    for name in ("tiny.py", "script.py", "config.yaml"):
        copy(good / name, work / name)
    copytree(good / "runs" / "run", work / "runs" / "run")
    places.put_something_odd(work / "odd", rng)
    arguments = list(rng.choice(_GOOD))
    command = arguments[0]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        _change(arguments, rng)
    if rng.random() < 0.03:
        command = arguments[0] = hostile.text(rng)
    arguments = [word.replace("\0", "") for word in arguments]
    written = _asked_for(arguments)
    return Case(
        tuple(arguments),
        stdin=mutating.damaged((good / "script.py").read_bytes(), rng) if "-" in arguments else b"",
        encoding=rng.choice(("utf-8", "utf-8", "utf-8", "ascii", "latin-1")),
        stdout=rng.choice((None,) * 12 + ("/dev/full",)),
        closed=rng.choice(((),) * 20 + ((1,), (2,), (0, 1, 2))),
        writes=(*_WRITES, *written),
        statuses=RUN_STATUSES if command in ("train", "compare") else frozenset({0, 1, 2, 3}),
    )


def _change(arguments: list[str], rng: Random) -> None:
    at = rng.randrange(1, len(arguments) + 1)
    word = rng.choice((*_WORDS, hostile.text(rng), str(hostile.number(rng)) if rng.random() < 0.9 else "5"))
    action = rng.randrange(6)
    if action == 0 and at < len(arguments):
        del arguments[at]
    elif action == 1:
        arguments[at:at] = [rng.choice(_OPTIONS), word]
    elif action == 2:
        arguments.insert(at, rng.choice(_OPTIONS))
    elif action == 3 and "=" in arguments[-1]:
        arguments[-1] = f"{arguments[-1].split('=')[0]}={word}"
    elif at < len(arguments):
        arguments[at] = word
    else:
        arguments.append(word)


def _asked_for(arguments: list[str]) -> list[str]:
    """Where the command line itself asks for output."""
    after = [word for option, word in pairwise(arguments) if option in ("--output", "--tensorboard")]
    from_settings = [word.split("=", 1)[1] for word in arguments if word.startswith("output=")]
    return [str(Path(word)) for word in (*after, *from_settings)]
