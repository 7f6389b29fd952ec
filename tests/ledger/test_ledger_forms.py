"""The ledger's forms: text, JSON lines, blocks; and what becomes of damaged files."""

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradledger.ledger import (
    KINDS,
    Backward,
    Ledger,
    LedgerFormatError,
    Location,
    Step,
    Zero,
    entry_from_json,
    entry_to_json,
    from_text,
    read_ledger,
    to_text,
    write_ledger,
)

FLOATS = st.floats(allow_nan=False) | st.just(math.inf)
BY_ANNOTATION = {
    "str": st.text(max_size=8),
    "int": st.integers(-(2**40), 2**40),
    "bool": st.booleans(),
    "float": FLOATS,
    "Location": st.builds(Location, st.text(max_size=8), st.integers(0, 9999)),
    "Reduction": st.sampled_from(["mean", "sum"]),
    "Literal['norm', 'value']": st.sampled_from(["norm", "value"]),
    "tuple[float, ...]": st.lists(FLOATS, max_size=3).map(tuple),
}


def strategy_of(field):
    annotation = str(field.type)
    own = BY_ANNOTATION[annotation.removesuffix(" | None")]
    return st.none() | own if annotation.endswith(" | None") else own


ENTRIES = st.one_of(
    *(
        st.fixed_dictionaries({}, optional={f.name: strategy_of(f) for f in fields(kind)}).map(
            lambda values, kind=kind: kind(**values)
        )
        for kind in KINDS.values()
    )
)
LETTERS = st.sampled_from(["Z", "V", "B", "A", "R", "U", "C", "S", "s", "G", "L", "(", ")", "E"])
TEXTS = st.lists(st.tuples(LETTERS, st.sampled_from(["", ":critic"])).map("".join), max_size=30).map(" ".join)


@given(ENTRIES)
def test_json_round_trips(entry):
    assert entry_from_json(entry_to_json(entry)) == entry


def test_json_keeps_what_is_not_a_number():
    entry = entry_from_json(entry_to_json(Backward(loss=math.nan)))
    assert math.isnan(entry.loss)


@given(TEXTS)
def test_text_round_trips(text):
    assert to_text(from_text(text)) == text


@given(st.lists(ENTRIES, max_size=12))
def test_files_round_trip(entries):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        write_ledger(entries, path)
        assert list(read_ledger(path)) == entries


def test_a_last_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "ledger.jsonl"
    write_ledger(from_text("Z B B S"), path)
    whole = path.read_text()
    for cut in range(len(whole.splitlines()[-1])):
        path.write_text(whole[: len(whole) - 1 - cut])
        assert read_ledger(path).text() in ("Z B B", "Z B B S")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a ledger: its first line must be"),
        ("hello\n", "is not a ledger: its first line must be"),
        ("[" * 100_000 + "\n", "is not a ledger: its first line must be"),
        ('{"ledger": 9}\n', "has ledger format 9; this version reads 1"),
        ('{"ledger": 1}\n{"kind": "Zero"\n{"kind": "Step"}\n', "line 2: not JSON"),
        ('{"ledger": 1}\n[1]\n', "line 2: not a JSON object"),
        ('{"ledger": 1}\n{"kind": "Zeroo"}\n', "line 2: unknown kind 'Zeroo': the kinds are Zero, Backward"),
        (
            '{"ledger": 1}\n{"kind": "Zero", "colour": 1}\n',
            "line 2: Zero has no field 'colour': its fields are",
        ),
        ('{"ledger": 1}\n{"kind": "Zero", "void": 3}\n', "line 2: Zero: 3 is not true or false"),
        ('{"ledger": 1}\n{"kind": "Zero", "update": true}\n', "line 2: Zero: True is not a whole number"),
        ('{"ledger": 1}\n{"kind": "Backward", "loss": "many"}\n', "line 2: Backward: 'many' is not a number"),
        ('{"ledger": 1}\n{"kind": "Zero", "update": null}\n', "line 2: Zero: None is not a whole number"),
        ('{"ledger": 1}\n{"kind": "Backward", "reduction": "max"}\n', "'max' is not one of mean, sum"),
        ('{"ledger": 1}\n{"kind": "Backward", "loss": 1' + "0" * 400 + "}\n", "line 2: Backward: int too large"),
        ('{"ledger": 1}\n{"kind": "Zero", "location": 3}\n', r"line 2: Zero: 3 is not a location \[file, line\]"),
    ],
)
def test_damaged_files_are_refused_with_their_line(tmp_path, content, message):
    path = tmp_path / "ledger.jsonl"
    path.write_text(content)
    with pytest.raises(LedgerFormatError, match=message):
        read_ledger(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LedgerFormatError, match="is not a ledger"):
        read_ledger(path)


def test_unknown_letters_are_refused():
    with pytest.raises(ValueError, match="'Q' is no entry: the letters are"):
        from_text("Z Q")


class Block:
    def __init__(self, *entries):
        self.num_entries, self.made, self.num_reads = len(entries), entries, 0

    def entries(self):
        self.num_reads += 1
        return self.made


def test_blocks_are_expanded_when_read():
    ledger, block = Ledger(), Block(Zero(), Step())
    ledger.append_block(block)
    assert (len(ledger), ledger.num_recorded, block.num_reads) == (2, 2, 0)
    assert ledger.text() == "Z S"
    assert block.num_reads == 1


def test_the_oldest_entries_are_let_go():
    ledger = Ledger(max_entries=5)
    for _ in range(4):
        ledger.append_block(Block(Zero(), Step()))
    assert (len(ledger), ledger.num_recorded) == (4, 8)
    assert to_text(ledger.since(5)) == "S Z S"
    assert ledger.since(8) == []
    with pytest.raises(LookupError, match=r"entries 2 to 3 were let go \(this ledger holds 5\)"):
        ledger.since(2)
    with pytest.raises(ValueError, match="max_entries=0 must be at least 1"):
        Ledger(max_entries=0)


@given(st.integers(0, 12))
def test_since_is_the_rest(index):
    ledger = Ledger(from_text("Z B B S Z B B S"))
    ledger.append_block(Block(Zero(), Step(), Zero(), Step()))
    assert ledger.since(index) == list(ledger)[index:]


def test_a_ledger_reads_well():
    assert repr(Ledger(from_text("Z B S"))) == "Ledger('Z B S')"
    assert len(repr(Ledger(from_text("B " * 1000)))) < 140
    assert Ledger(from_text("B:critic S")).accounts == ("critic", "main")
    assert Ledger(from_text("Z")) == Ledger([Zero()])


def test_a_token_of_any_length_is_refused_in_few_words():
    with pytest.raises(ValueError, match=r"^'x{40}' is no entry") as caught:
        from_text("Z " + "x" * 10_000)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="unknown kind") as caught:
        entry_from_json(json.dumps({"kind": "x" * 10_000}))
    assert len(str(caught.value)) < 500
