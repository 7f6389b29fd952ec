"""Checkpoints that are damaged, cut short, foreign or newer: refused by name, and the one before is gone on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.killing import around_forward, die
from faults.runs import Case, judge, train, whole
from gradledger.train.checkpoint.layout import FILES, MANIFEST, CheckpointError, checkpoints_in, manifest_bytes
from gradledger.train.checkpoint.reading import read_checkpoint

NUM_REGIONS = 16

Damage = Callable[[Path], object]


def damaged(folder: Path, part: float) -> Iterator[Case]:
    """Every byte of every file is turned once (a region is a case), and every kind of damage is gone on over."""
    expected = whole(folder)
    killed = train(folder / "killed", "checkpoint_every=1", around=around_forward(30, die))
    assert killed.how == "killed"
    newest = checkpoints_in(folder / "killed" / "run" / "checkpoints")[-1]
    for name in (*FILES, MANIFEST):
        yield from _every_byte(newest / name, part)
    for number, (name, damage) in enumerate(_damages()):
        if number % max(1, round(0.5 / part)) == 0:
            yield _gone_on_over(folder / "killed", folder / str(number), name, damage, expected)


def _every_byte(path: Path, part: float) -> Iterator[Case]:
    original, every = path.read_bytes(), max(1, round(1 / part))
    regions = [range(len(original) * at // NUM_REGIONS, len(original) * (at + 1) // NUM_REGIONS) for at in range(16)]
    for region in regions:
        missed = [at for at in region[::every] if not _is_refused(path, original, at)]
        yield Case("wrong", note=f"{path.name}: bytes {missed[:20]} were turned unseen") if missed else Case("refused")
    path.write_bytes(original)


def _is_refused(path: Path, original: bytes, at: int) -> bool:
    path.write_bytes(original[:at] + bytes([original[at] ^ 0x10]) + original[at + 1 :])
    try:
        read_checkpoint(path.parent)
    except CheckpointError as error:
        return str(path.parent) in str(error)
    return False


def _damages() -> Iterator[tuple[str, Damage]]:
    for name in (*FILES, MANIFEST):
        yield f"{name} is missing", lambda path, name=name: (path / name).unlink()
        yield f"{name} is a directory", lambda path, name=name: _as_directory(path / name)
        yield f"{name} is a link to itself", lambda path, name=name: _as_loop(path / name)
        for eighths in (0, 1, 4, 7):
            yield f"{name} is cut", lambda path, name=name, part=eighths: _cut(path / name, part)
        yield f"{name} is longer", lambda path, name=name: (path / name).write_bytes((path / name).read_bytes() + b"\0")
        yield f"{name} is foreign", lambda path, name=name: (path / name).write_bytes(b'{"model": "bert"}')
        yield f"{name} is nested", lambda path, name=name: (path / name).write_bytes(b"[" * 100_000)
    yield "it is newer", _newer
    yield "it is empty", lambda path: (shutil.rmtree(path), path.mkdir())
    yield "it is a file", lambda path: (shutil.rmtree(path), path.write_bytes(b""))
    yield "it has the files of another", _exchange
    yield "latest is lost", lambda path: (path.parent / "latest").unlink()
    yield "latest is nonsense", lambda path: (path.parent / "latest").write_bytes(b"\xff\x00../../etc")


def _as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _cut(path: Path, eighths: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * eighths // 8])


def _newer(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["sha256"]
    (path / MANIFEST).write_bytes(manifest_bytes({**manifest, "gradledger_checkpoint": 999}))


def _exchange(path: Path) -> None:
    older = checkpoints_in(path.parent)[-2]
    for name in FILES:
        shutil.copy(older / name, path / name)


def _gone_on_over(killed: Path, output: Path, name: str, damage: Damage, expected: object) -> Case:
    shutil.copytree(killed, output)
    newest = checkpoints_in(output / "run" / "checkpoints")[-1]
    damage(newest)
    ended = train(output, "checkpoint_every=1")
    lines = [text for kind, text in ended.told if kind == "line"]
    is_told = any(newest.name in line and "it is passed over" in line for line in lines)
    if is_told == name.startswith("latest"):
        return Case("wrong", note=f"{name}: {ended}"[:1000])
    return judge(ended, expected, refused=is_told)
