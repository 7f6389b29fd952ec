"""Checkpoints on disk: whole or not there, and damage of every kind is told."""

import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from faults.disk import full_at, watched_disk
from gradledger import UserError
from gradledger.train.checkpoint.encoding import decode, encode
from gradledger.train.checkpoint.layout import CheckpointError, Extent, Place, checkpoints_in, extent_of, manifest_bytes
from gradledger.train.checkpoint.lines import LineFile
from gradledger.train.checkpoint.making import write_checkpoint
from gradledger.train.checkpoint.reading import newest_good, put_aside, read_checkpoint
from gradledger.train.checkpoint.writing import replace_file, tidy

KEYS = st.one_of(st.text(max_size=4), st.integers(), st.floats(allow_nan=False))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
)


@given(PLAIN)
def test_plain_states_come_back_as_they_were(state):
    plain, tensors = encode(state, "state")
    read = decode(json.loads(json.dumps(plain, allow_nan=False)), tensors)
    assert repr(read) == repr(state)  # NaN, 1 and True, 1.0 and 1 are told apart


def test_tensors_of_every_kind_come_back_as_they_were(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    state = {
        "model": {"weight": base, "tied": base, "a.part": base[1:, 1:], "turned": base.T},
        "types": [
            torch.ones(2, dtype=t) for t in (torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)
        ],
        "single": (torch.tensor(3.0), torch.empty(0, 5)),
        7: nn.Parameter(torch.ones(1)),
        "numpy": np.float32(0.1),
    }
    path = write_checkpoint(tmp_path, Place(1, 0), state, {}, keep=1)
    read = read_checkpoint(path).load()
    flat, expected = encode(read, "x")[1], encode(state, "x")[1]
    assert flat.keys() == expected.keys()
    assert all(torch.equal(flat[name], expected[name]) and flat[name].dtype == expected[name].dtype for name in flat)
    assert read["model"]["weight"] is read["model"]["tied"]
    assert read["numpy"] == np.float32(0.1)
    assert {name.partition(".")[0] for name in flat} == {"x"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [object()]}, "state.a.0 is a builtins.object: a checkpoint holds tensors"),
        ({"a": {1, 2}}, "state.a is a builtins.set"),
        ({"a": lambda: 0}, "state.a is a builtins.function"),
        ({"a": torch.eye(2).to_sparse()}, "state.a is a tensor of type torch.float32 and layout torch.sparse_coo"),
        ({"a": torch.ones(1, dtype=torch.complex128)}, "state.a is a tensor of type torch.complex128"),
    ],
)
def test_what_would_need_pickle_is_refused_by_its_place(value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        encode(value, "state")


STATE = {"model": {"weight": torch.arange(6.0)}, "optimizer": {"state": {0: torch.ones(3)}}, "epoch": 2}


@pytest.fixture
def run_directory(tmp_path):
    """A run with three checkpoints, the newest ``000003-update-000006``, and 4 lines of which 3 were checkpointed."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    lines = LineFile(tmp_path / "metrics.jsonl")
    for number in (1, 2, 3):
        lines.append(f'{{"update": {number}}}\n')
        state = {**STATE, "epoch": number}
        write_checkpoint(checkpoints, Place(number, 2 * number), state, {"metrics.jsonl": lines.sync()}, keep=3)
    lines.append('{"update": 4}\n')
    lines.close()
    return tmp_path


def newest(run_directory):
    return checkpoints_in(run_directory / "checkpoints")[-1]


def test_the_newest_is_found_and_the_last_ones_are_kept(run_directory):
    checkpoints = run_directory / "checkpoints"
    assert [path.name for path in checkpoints_in(checkpoints)] == [f"00000{n}-update-00000{2 * n}" for n in (1, 2, 3)]
    assert (checkpoints / "latest").read_text() == "000003-update-000006\n"
    extent = read_checkpoint(newest(run_directory)).plain["lines"]["metrics.jsonl"]
    write_checkpoint(checkpoints, Place(4, 6, 2), STATE, {"metrics.jsonl": Extent(**extent)}, keep=2)
    assert [path.name for path in checkpoints_in(checkpoints)] == [
        "000003-update-000006", "000004-update-000006-micro-batch-2",
    ]  # fmt: skip
    found, errors = newest_good(checkpoints)
    assert (found.place, errors) == (Place(4, 6, 2), [])
    assert not list(checkpoints.glob(".*"))


FILES = ["manifest.json", "model.safetensors", "state.safetensors", "state.json"]


def damages(path):
    """Ways to damage a file: bytes changed all over it, and cuts all over it."""
    content = path.read_bytes()
    size = len(content)
    for at in sorted({*range(0, size, max(size // 40, 1)), *range(min(size, 12)), size - 1, size - 2}):
        flipped = bytes([content[at] ^ (1 << at % 8)])
        yield f"byte {at} flipped", content[:at] + flipped + content[at + 1 :]
        yield f"cut at {at}", content[:at]
    yield "longer", content + b"\0"
    yield "all zeros", bytes(size)


@pytest.mark.parametrize("name", FILES)
def test_damage_anywhere_is_told_with_the_file(run_directory, name):
    path = newest(run_directory)
    original = (path / name).read_bytes()
    num_damages = 0
    for how, content in damages(path / name):
        (path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert path.name in str(caught.value), how
        assert name in str(caught.value) or "has checkpoint format" in str(caught.value), how
        num_damages += 1
    (path / name).write_bytes(original)
    assert read_checkpoint(path).load()["epoch"] == 3
    assert num_damages > 80
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        read_checkpoint(path)


def test_a_damaged_newest_gives_way_to_the_one_before(run_directory):
    checkpoints = run_directory / "checkpoints"
    damaged = newest(run_directory)
    (damaged / "state.json").write_bytes(b"{")
    found, errors = newest_good(checkpoints)
    assert found.place == Place(2, 4)
    assert re.search(r"000003-update-000006/state\.json is damaged: it has 1 bytes, but had \d+", str(errors[0]))
    assert newest_good(checkpoints, before=2)[0].place == Place(1, 2)
    put_aside(damaged)
    assert newest(run_directory).name == "000002-update-000004"
    assert (checkpoints / "damaged-000003-update-000006").is_dir()


def test_files_that_are_no_checkpoints_are_told(run_directory):
    path = newest(run_directory)
    foreign = run_directory / "checkpoints" / "000009-update-000009"
    with pytest.raises(CheckpointError, match=r"000009-update-000009 is no checkpoint: it is not there"):
        read_checkpoint(foreign)
    foreign.mkdir()
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no manifest\.json"):
        read_checkpoint(foreign)
    (foreign / "manifest.json").write_text('{"model": "bert"}')
    with pytest.raises(CheckpointError, match="is no checkpoint of Gradledger"):
        read_checkpoint(foreign)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "manifest.json").write_bytes(manifest_bytes({**manifest, "gradledger_checkpoint": 2}))
    with pytest.raises(CheckpointError, match="has checkpoint format 2; this version reads 1"):
        read_checkpoint(path)


def test_files_of_another_checkpoint_do_not_pass_for_its_own(run_directory):
    checkpoints = run_directory / "checkpoints"
    path, other = newest(run_directory), checkpoints / "000001-update-000002"
    shutil.copy(other / "state.json", path / "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        read_checkpoint(path)


def test_lines_that_were_changed_since_cannot_be_gone_on_from(run_directory):
    lines = run_directory / "metrics.jsonl"
    original = lines.read_bytes()
    first = len(b'{"update": 1}\n')
    for content, good in [(original[:-1], 3), (b"X" + original[1:], None), (original[: 2 * first + 1], 2)]:
        lines.write_bytes(content)
        found, _ = newest_good(run_directory / "checkpoints")
        assert (found and found.place.number) == good
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl was changed since: it has 29 bytes, but had 42"):
        read_checkpoint(newest(run_directory))


def test_a_failure_at_any_operation_leaves_what_there_was(run_directory):
    checkpoints = run_directory / "checkpoints"
    extent = Extent(**read_checkpoint(newest(run_directory)).plain["lines"]["metrics.jsonl"])

    def write():
        write_checkpoint(checkpoints, Place(4, 8), STATE, {"metrics.jsonl": extent}, keep=3)

    with watched_disk(lambda number: None) as disk:
        shutil.copytree(run_directory, run_directory.with_name("copy"))
        before = disk.num_operations
        write()
    num_operations = disk.num_operations - before
    assert num_operations > 12
    names = []
    for number in range(1, num_operations + 1):
        shutil.rmtree(run_directory)
        shutil.copytree(run_directory.with_name("copy"), run_directory)
        with watched_disk(full_at(number)), pytest.raises(OSError, match="No space left on device"):
            write()
        tidy(checkpoints)
        found, errors = newest_good(checkpoints)
        assert errors == []
        names.append(found.path.name)
        latest = (checkpoints / "latest").read_text().strip()
        assert read_checkpoint(checkpoints / latest).place.number in (3, 4)
        assert not list(checkpoints.glob(".*"))
    assert sorted(names) == names  # the old one, and from one operation on the new one


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "latest"
    replace_file(path, b"one")
    for number in (1, 2, 3, 4):
        with watched_disk(full_at(number)), pytest.raises(OSError, match="No space left"):
            replace_file(path, b"two" * number)
        assert path.read_bytes() in (b"one", b"two" * number)
        assert os.listdir(tmp_path) == ["latest"]


def test_lines_wait_while_the_disk_is_full_and_none_is_lost(tmp_path, monkeypatch):
    file = LineFile(tmp_path / "lines")
    room, write = 7, os.write

    def short_write(descriptor, data):
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        num_bytes = min(room, len(data))
        room -= num_bytes
        return write(descriptor, bytes(data[:num_bytes]))

    monkeypatch.setattr(os, "write", short_write)
    for line in ("one\n", "two\n", "three\n"):
        if line == "one\n":
            file.append(line)
            continue
        with pytest.raises(OSError, match="No space left"):
            file.append(line)
    assert (tmp_path / "lines").read_text() == "one\ntwo"
    room = math.inf
    extent = file.sync()
    assert (tmp_path / "lines").read_text() == "one\ntwo\nthree\n"
    file.append("four\n")
    file.close()
    again = LineFile(tmp_path / "lines", extent)  # what was written after the checkpoint is gone
    again.append("4\n")
    assert again.sync().num_bytes == len((tmp_path / "lines").read_text()) == len("one\ntwo\nthree\n4\n")
    again.close()
    with pytest.raises(FileExistsError):
        LineFile(tmp_path / "lines")


def _vouched_for(path, manifest=(), state=None):
    """A checkpoint with other fields, whose hashes are right."""
    plain = json.loads((path / "state.json").read_text()) if state is None else state
    (path / "state.json").write_text(json.dumps(plain))
    record = json.loads((path / "manifest.json").read_text())
    record.pop("sha256")
    record["files"]["state.json"] = extent_of(path / "state.json")._asdict()
    (path / "manifest.json").write_bytes(manifest_bytes({**record, **dict(manifest)}))
    return path


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"files": 5}, "its files are not model.safetensors"),
        ({"files": {}}, "its files are not model.safetensors"),
        ({"number": "7"}, "number is '7'"),
        ({"update": -1}, "update is -1"),
        ({"micro_batch": 1.5}, "micro_batch is 1.5"),
    ],
)
def test_a_manifest_of_somebody_else_is_refused(tmp_path, manifest, message):
    path = _vouched_for(write_checkpoint(tmp_path, Place(1, 0), {"model": {}}, {}, keep=1), manifest)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": 5}, "TypeError"),
        ({"lines": {"../../secret": {"num_bytes": 0, "sha256": ""}}}, "it speaks of files outside the run directory"),
        ({"lines": {"ledger.jsonl": {"num_bytes": 0.5, "sha256": ""}}}, "is no number of bytes with their SHA-256"),
        ({"num_ranks": 0}, "it does not say how many ranks wrote it"),
    ],
)
def test_a_state_of_somebody_else_is_refused(tmp_path, change, message):
    path = write_checkpoint(tmp_path, Place(1, 0), {"model": {}}, {}, keep=1)
    plain = json.loads((path / "state.json").read_text())
    _vouched_for(path, state={**plain, **change})
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_checkpoint(path)


def test_a_checkpoint_without_a_configuration_is_refused(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, Place(1, 0), {"model": {}}, {}, keep=1))
    with pytest.raises(CheckpointError, match=r"state.json is damaged: it holds no configuration"):
        checkpoint.config  # noqa: B018


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_a_pipe_or_an_endless_file_in_a_checkpoint_is_refused(tmp_path, name):
    path = write_checkpoint(tmp_path, Place(1, 0), {"model": {}}, {}, keep=1)
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(CheckpointError, match=r"it is not JSON|it is no regular file"):
        read_checkpoint(path)
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"has more than the|it is no regular file"):
        read_checkpoint(path)
