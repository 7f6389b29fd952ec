"""Target: the checkpoints that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from shutil import copy, copytree

from fuzz import hostile, mutating, places
from fuzz.case import RUN_STATUSES, Case
from fuzz.run_directories import damage
from gradledger.train.checkpoint.layout import FILES, MANIFEST, extent_of, manifest_bytes

_RUN = "runs/run"


def make(rng: Random, good: Path, work: Path) -> Case:
    """A run whose newest checkpoint is damaged, or was written by somebody who knows how its manifest is made."""
    copy(good / "tiny.py", work / "tiny.py")
    copytree(good / "runs" / "run", work / _RUN)
    run = work / _RUN
    _take_end_away(run)
    checkpoints = sorted((run / "checkpoints").glob("0*"))
    victim = checkpoints[-1]
    for _ in range(rng.choice((1, 1, 2))):
        _damage_file(victim / rng.choice((*FILES, "state.json", "state.json", MANIFEST)), rng)
    if rng.random() < 0.75:
        _vouch_for(victim, rng)
    if rng.random() < 0.1:
        places.put_something_odd(run / "checkpoints" / "latest", rng)
    if rng.random() < 0.1:
        victim.rename(
            victim.with_name(
                rng.choice(("000003-update-" + "9" * 30, "00000٣-update-000004", "x", "000009-update-000004"))
            )
        )
    resume = rng.choice((_RUN, _RUN, "auto", f"{_RUN}/checkpoints/{victim.name}", f"{_RUN}/checkpoints"))
    config = (f"{_RUN}/config.yaml",) if resume == "auto" else ()
    return Case(("train", "--resume", resume, *config), writes=("runs",), statuses=RUN_STATUSES)


def _take_end_away(run: Path) -> None:
    """As if the run had been killed before its last line."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(line for line in lines if b'"summary"' not in line))


def _damage_file(path: Path, rng: Random) -> None:
    if path.suffix == ".safetensors" and path.is_file() and not path.is_symlink() and rng.random() < 0.6:
        path.write_bytes(_with_another_header(path.read_bytes(), rng))
    else:
        damage(path, rng, values=0.8 if path.suffix == ".json" else 0.0)


def _with_another_header(raw: bytes, rng: Random) -> bytes:
    """The header of a safetensors file is JSON behind its length."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = mutating.json_with_other_values(raw[8 : 8 + length], rng)
    except ValueError:
        return mutating.damaged(raw, rng)
    said = len(header) if rng.random() < 0.8 else abs(int(hostile.NUMBERS[rng.randrange(11)])) % 2**64
    return said.to_bytes(8, "little") + header + raw[8 + length :]


def _vouch_for(checkpoint: Path, rng: Random) -> None:
    """Write a manifest that says what the files are now."""
    if not all((checkpoint / name).is_file() for name in (*FILES, MANIFEST)):
        return  # something odd, such as a pipe or a device without an end
    try:
        record = json.loads((checkpoint / MANIFEST).read_bytes())
        record.pop("sha256", None)
        record["files"] = {name: extent_of(checkpoint / name)._asdict() for name in FILES}
        if rng.random() < 0.3:
            record = json.loads(mutating.json_with_other_values(json.dumps(record).encode(), rng))
        (checkpoint / MANIFEST).write_bytes(manifest_bytes(record))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
