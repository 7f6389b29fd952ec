"""The headline: is the run all right, and what shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from gradledger.report.charts import ends_of
from gradledger.report.facts import effective_batch, last_evaluation
from gradledger.report.findings import Shown
from gradledger.report.picture import Track
from gradledger.report.runs import Run
from gradledger.report.wording import count, number, percent

_STATES = {
    "balanced": "balanced",
    "scaled": "off by a factor",
    "uneven": "with micro-batches that count unlike their weights",
    "stale": "with gradient left from earlier ones",
    "short": "with micro-batches zeroed away",
    "unknown": "unknown",
}

_ENDINGS = {
    "interrupted": "This run was interrupted.",
    "terminated": "This run was ended from outside.",
    "failed": "This run failed.",
}

Level = Literal["good", "warning", "error", "running"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A headline with the sentences under it."""

    level: Level
    headline: str
    sentences: tuple[str, ...] = ()


def verdict_of_run(run: Run, tracks: Sequence[Track], findings: Sequence[Shown]) -> Verdict:
    """Judge one run."""
    level, trouble = _trouble(findings)
    in_balance, books = _balance(tracks)
    sentences = tuple(sentence for sentence in (books, _learning(run)) if sentence)
    ended = str(run.summary.get("exit") or "finished")
    if trouble:
        return Verdict(level, trouble, sentences)
    if run.is_live:
        return Verdict("running", f"Running: {count(len(run.updates), 'update')} so far.", sentences)
    if not run.summary:
        return Verdict("warning", "This run ended before its time: it left no summary.", sentences)
    if ended != "finished":
        return Verdict("warning", _ENDINGS.get(ended, f"This run ended: {ended}."), sentences)
    if in_balance is False:
        return Verdict("warning", "Out of balance.", sentences)
    return Verdict("good", "In balance and learning." if in_balance else "No trouble found.", sentences)


def verdict_of_runs(
    runs: Sequence[Run], findings: Sequence[Shown], compared: Mapping[str, Any] | None = None
) -> Verdict:
    """Say how several runs compare."""
    level, trouble = _trouble(findings)
    stated = (compared or {}).get("statements") or ()
    sentences = [str(line) for line in stated]
    if trouble:
        sentences.insert(0, trouble)
    return Verdict(level, _range(runs), tuple(sentences))


def verdict_of_findings(findings: Sequence[Shown]) -> Verdict:
    """Judge a file of findings."""
    level, trouble = _trouble(findings)
    return Verdict(level, trouble or "No findings.")


def _trouble(findings: Sequence[Shown]) -> tuple[Level, str]:
    num_errors = sum(finding.severity == "error" for finding in findings)
    num_warnings = sum(finding.severity == "warning" for finding in findings)
    parts = [count(num_errors, "error")] if num_errors else []
    parts += [count(num_warnings, "warning")] if num_warnings else []
    if not parts:
        return "good", ""
    names = list(dict.fromkeys(finding.rule for finding in findings if finding.severity != "info"))
    return ("error" if num_errors else "warning"), f"{' and '.join(parts)}: {', '.join(names)}."


def _balance(tracks: Sequence[Track]) -> tuple[bool | None, str]:
    """Whether every update balances (None: not known), and the sentence that says how many do."""
    states = _states(tracks)
    total = states.total()
    if not total or states["unknown"] == total:
        return None, ""
    if states["balanced"] == total:
        return True, f"All {count(total, 'update')} balance: each is that of its whole effective batch."
    parts = (f"{states[state]:,} {words}" for state, words in _STATES.items() if states[state])
    known = {state for state in states if states[state]} <= {"balanced", "unknown"}
    return None if known else False, f"Of {count(total, 'update')}: {', '.join(parts)}."


def _states(tracks: Sequence[Track]) -> Counter[str]:
    """How many updates are in which state; of several ranks that made an update together, the worst counts."""
    states: Counter[str] = Counter()
    for account in dict.fromkeys(track.account for track in tracks):
        of_ranks = [track.states for track in tracks if track.account == account]
        most = max(sum(own.values()) for own in of_ranks)
        worst: Counter[str] = Counter()
        for own in of_ranks:
            worst |= Counter({str(state): number for state, number in own.items() if state != "balanced"})
        states += worst + Counter({"balanced": most - worst.total()})
    return states


def _learning(run: Run) -> str:
    first, last = ends_of(run.column("loss"))
    if first is None or last is None:
        return ""
    verb = "fell" if last < first else "did not fall:"
    sentence = f"Training loss {verb} from {number(first)} to {number(last)}"
    evaluation = last_evaluation(run)
    if evaluation.get("accuracy") is not None:
        sentence += f"; validation accuracy is {percent(evaluation['accuracy'])}"
    elif evaluation.get("loss") is not None:
        sentence += f"; validation loss is {number(evaluation['loss'])}"
    return sentence + "."


def _range(runs: Sequence[Run]) -> str:
    scores: dict[str, list[float]] = {}
    for run in runs:
        score = last_evaluation(run).get("accuracy")
        if score is not None:
            scores.setdefault(run.group, []).append(score)
    known = sorted((fmean(each), group) for group, each in scores.items())
    if len(known) > 1:
        (low, worst), (high, best) = known[0], known[-1]
        return (
            f"{count(len(runs), 'run')}: validation accuracy from {percent(low)} ({worst}) to {percent(high)} ({best})."
        )
    batches = sorted({effective_batch(run).get("samples") or 0 for run in runs} - {0})
    return f"{count(len(runs), 'run')}" + (
        f", effective batches {', '.join(map(number, batches))}." if batches else "."
    )
