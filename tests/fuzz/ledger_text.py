"""Target: ledgers in their text form, and lines of their JSON form, read from Python."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz import hostile, mutating
from fuzz.case import Case
from gradledger.ledger import Ledger, balance_of, entry_from_json, entry_to_json, from_text, to_text
from gradledger.rules import judge

_TEXT = b"( Z B B B:generator A R U C S G L W V s Z B E B S:critic Z E M )"


def make(rng: Random, good: Path, work: Path) -> Case:
    """A ledger that is read, balanced, judged and written again."""
    if rng.random() < 0.5:
        text = mutating.damaged(_TEXT, rng).decode("utf-8", errors="surrogateescape")
        return Case(call=lambda: _judge(Ledger(from_text(text))))
    lines = (good / "runs" / "run" / "ledger.jsonl").read_bytes().splitlines()[1:]
    changed = [
        mutating.json_with_other_values(line, rng) if rng.random() < 0.2 else line
        for line in lines[: rng.randrange(30)]
    ]
    if changed and rng.random() < 0.1:
        changed[0] = hostile.text(rng).encode("utf-8", errors="replace")
    return Case(call=lambda: _judge(Ledger(entry_from_json(line.decode()) for line in changed)))


def _judge(ledger: Ledger) -> None:
    to_text(ledger)
    for window in ledger.windows():
        balance_of(window)
    for entry in ledger:
        assert entry_from_json(entry_to_json(entry)) == entry or "nan" in entry_to_json(entry)
    judge(ledger)
