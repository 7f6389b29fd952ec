"""From predictions to findings: the rules judge each ledger, and what only some truths show is weighed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradledger.findings import Finding, in_source_order
from gradledger.ledger import Backward, Entry, Ledger, Location, Step
from gradledger.lint.predict import FilePredictions, Prediction
from gradledger.rules import judge

Cause = tuple[str, Location | None]


def findings_of(
    predictions: FilePredictions, select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> list[Finding]:
    """What the rules find in a file's predicted ledgers, each cause once, in source order.

    A finding counts where no truth of the unknown flags avoids it, or where one flag's truth alone brings it about:
    what takes two flags to disagree may be a combination that nobody runs.
    """
    found: dict[Cause, Finding] = {}
    for runs in predictions.entries.values():
        clear = [run for run in runs if not run.unclear]
        judged = [{finding.cause: finding for finding in _judge(run, select, ignore)} for run in clear]
        for cause in dict.fromkeys(cause for findings in judged for cause in findings):
            if _is_consistent(cause, clear, judged):
                finding = next(findings[cause] for findings in judged if cause in findings)
                found.setdefault(cause, finding)
    return in_source_order(found.values())


def _judge(run: Prediction, select: Iterable[str] | None, ignore: Iterable[str] | None) -> list[Finding]:
    entries = list(run.ledger)
    if not any(isinstance(entry, Backward) for entry in entries):
        return []
    has_steps = any(isinstance(entry, Step) for entry in entries)
    if not has_steps and run.entry:
        return []
    findings = judge(Ledger(entries), select, ignore, complete=run.whole)
    return [finding for finding in findings if _source_tells(run, entries, finding)]


def _source_tells(run: Prediction, entries: list[Entry], finding: Finding) -> bool:
    """Does the finding rest on what the source says, and not on a number that was assumed?"""
    if finding.rule == "mean-of-means":
        return _has_one_loss(entries, finding)
    if finding.rule == "dropped-tail" and run.assumed_length:
        last = max((entry.update for entry in entries if isinstance(entry, Backward)), default=0)
        return (
            finding.first_update or 0
        ) < last  # each epoch's tail; whether the whole run has one, its length decides
    return True


def _has_one_loss(entries: list[Entry], finding: Finding) -> bool:
    """Shapes read from source say enough to compare the micro-batches of one loss, not losses of different kinds."""
    own = [entry for entry in entries if isinstance(entry, Backward) and entry.account == finding.account]
    return len({backward.location for backward in own}) == 1


def _is_consistent(cause: Cause, runs: Sequence[Prediction], judged: Sequence[dict[Cause, Finding]]) -> bool:
    if all(cause in findings for findings in judged):
        return True
    flags = {flag for run in runs for flag in run.truths if flag not in run.varying}
    for flag in flags:
        for truth in (True, False):
            with_it = [findings for run, findings in zip(runs, judged, strict=True) if run.truths.get(flag) is truth]
            if with_it and all(cause in findings for findings in with_it):
                return True
    return False
