"""A text with what is found in it, and the ledgers that it is predicted to keep."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from gradledger.findings import Finding
from gradledger.ledger import Ledger, balance_of
from gradledger.lint.files.sources import source_of
from gradledger.lint.judge import findings_of
from gradledger.lint.predict import predict


@dataclass(frozen=True, slots=True)
class State:
    """A text, what is found in it, and the ledgers it is predicted to keep."""

    text: str
    tree: ast.Module
    findings: tuple[Finding, ...]
    ledgers: tuple[Ledger, ...]

    @classmethod
    def of(cls, text: str, file: str, select: Iterable[str] | None, ignore: Iterable[str] | None) -> State:
        """The state of a text."""
        tree = source_of(text.encode(), file).tree()
        predictions = predict(tree, file)
        findings = [f for f in findings_of(predictions, select, ignore) if f.severity != "info"]
        ledgers = [run.ledger for runs in predictions.entries.values() for run in runs]
        return cls(text, tree, tuple(findings), tuple(ledgers))

    @property
    def balances(self) -> bool:
        """Is every window that a step closes predicted to balance, as far as it can be judged?"""
        windows = [window for ledger in self.ledgers for window in ledger.windows() if window.step and window.consumed]
        return bool(windows) and all(balance_of(window).verdict in ("balanced", "unknown") for window in windows)
