"""The headline: is the run all right, and what shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradledger.report.charts import ends_of
from gradledger.report.facts import balance_counts, effective_batch, last_evaluation
from gradledger.report.findings import Shown
from gradledger.report.runs import Run
from gradledger.report.wording import count, number, percent

Level = Literal["good", "warning", "error", "running"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A headline with the sentences under it."""

    level: Level
    headline: str
    sentences: tuple[str, ...] = ()


def verdict_of(runs: Sequence[Run], findings: Sequence[Shown], compared: Mapping[str, Any] | None = None) -> Verdict:
    """Judge one run, or say how several compare."""
    if len(runs) == 1:
        return _of_one(runs[0], findings)
    return _of_several(runs, findings, compared)


def verdict_of_findings(findings: Sequence[Shown]) -> Verdict:
    """Judge a file of findings."""
    level, trouble = _trouble(findings)
    return Verdict(level, trouble or "Nothing to complain about.")


def _trouble(findings: Sequence[Shown]) -> tuple[Level, str]:
    num_errors = sum(finding.severity == "error" for finding in findings)
    num_warnings = sum(finding.severity == "warning" for finding in findings)
    parts = [count(num_errors, "error")] if num_errors else []
    parts += [count(num_warnings, "warning")] if num_warnings else []
    if not parts:
        return "good", ""
    names = list(dict.fromkeys(finding.rule for finding in findings if finding.severity != "info"))
    return ("error" if num_errors else "warning"), f"{' and '.join(parts)}: {', '.join(names)}."


def _of_one(run: Run, findings: Sequence[Shown]) -> Verdict:
    level, trouble = _trouble(findings)
    sentences = [sentence for sentence in (_balance(run), _learning(run)) if sentence]
    if trouble:
        return Verdict(level, trouble, tuple(sentences))
    if run.is_live:
        return Verdict("running", f"Running: {count(len(run.updates), 'update')} so far.", tuple(sentences))
    if not run.summary:
        return Verdict("warning", "This run ended before its time: it left no summary.", tuple(sentences))
    ended = str(run.summary.get("exit") or "")
    if ended not in ("", "0", "ok", "done", "finished", "completed"):
        return Verdict("warning", f"This run ended early: {ended}.", tuple(sentences))
    return Verdict("good", "In balance and learning." if _balance(run) else "Learning.", tuple(sentences))


def _balance(run: Run) -> str:
    counts = balance_counts(run)
    total = counts.total()
    if not total or counts["unknown"] == total:
        return ""
    if counts["balanced"] == total:
        return f"All {count(total, 'window')} balance: each update is that of its whole effective batch."
    known = ", ".join(f"{counts[name]:,} {name}" for name in ("balanced", "scaled", "uneven", "unknown") if counts[name])
    return f"Of {count(total, 'window')}: {known}."


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


def _of_several(runs: Sequence[Run], findings: Sequence[Shown], compared: Mapping[str, Any] | None) -> Verdict:
    level, trouble = _trouble(findings)
    stated = (compared or {}).get("statements") or (compared or {}).get("verdict")
    sentences = [str(line) for line in ([stated] if isinstance(stated, str) else stated or [])]
    if trouble:
        sentences.insert(0, trouble)
    return Verdict(level, _range(runs), tuple(sentences))


def _range(runs: Sequence[Run]) -> str:
    scored = [(last_evaluation(run).get("accuracy"), run) for run in runs]
    known = sorted(((score, run.name) for score, run in scored if score is not None), key=lambda pair: pair[0])
    if len(known) > 1:
        (low, worst), (high, best) = known[0], known[-1]
        return f"{count(len(runs), 'run')}: validation accuracy from {percent(low)} ({worst}) to {percent(high)} ({best})."
    batches = sorted({effective_batch(run).get("samples") or 0 for run in runs} - {0})
    return f"{count(len(runs), 'run')}" + (f", effective batches {', '.join(map(number, batches))}." if batches else ".")
