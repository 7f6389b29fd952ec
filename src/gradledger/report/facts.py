"""What a report says about one run in numbers: the arithmetic, the end of the run, where its time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradledger.report.charts import ends_of
from gradledger.report.runs import Run
from gradledger.report.wording import count, duration, number, percent, size


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name and, in small print, how it came about."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole."""

    name: str
    seconds: float
    fraction: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix: rows are the true classes, columns the predicted ones.

    Args:
        names: The classes.
        rows: Counts.
        scores: For each class precision, recall, F1 and support.
        heading: What it was measured on.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[float | None, float | None, float | None, int], ...]
    heading: str

    def shares(self) -> list[list[float]]:
        """Each count as a fraction of its row: how many of a true class were taken for each class."""
        return [[value / max(1, sum(row)) for value in row] for row in self.rows]


def key_facts(run: Run) -> list[Fact]:
    """The few numbers that stand under the headline."""
    facts = [
        _score_fact(run),
        _loss_fact(run),
        _batch_fact(run),
        _updates_fact(run),
        _time_fact(run),
        _memory_fact(run),
    ]
    return [fact for fact in facts if fact is not None]


def last_evaluation(run: Run, split: str = "validation") -> Mapping[str, Any]:
    """The newest evaluation of a split, empty where there is none."""
    evaluations = run.evaluations_on(split)
    return evaluations[-1] if evaluations else {}


def effective_batch(run: Run) -> Mapping[str, Any]:
    """Micro-batch size, steps, ranks and samples, as far as the run tells."""
    given = run.summary.get("effective_batch")
    if isinstance(given, Mapping):
        return given
    steps = Counter(value for value in run.column("num_micro_batches") if value)
    samples = Counter(value for value in run.column("num_samples") if value)
    if not steps or not samples:
        return {}
    return {"steps": steps.most_common(1)[0][0], "samples": samples.most_common(1)[0][0], "ranks": 1}


def arithmetic(run: Run) -> list[str]:
    """How the effective batch comes about, one sentence a line."""
    batch = effective_batch(run)
    if not batch.get("samples"):
        return []
    factors = [
        f"{number(batch[name])} {noun if batch[name] == 1 else plural}"
        for name, noun, plural in (
            ("micro_batch_size", "sample", "samples"),
            ("steps", "micro-batch", "micro-batches"),
            ("ranks", "rank", "ranks"),
        )
        if batch.get(name)
    ]
    sentences = [f"{' × '.join(factors)} = {number(batch['samples'])} samples an update."]
    tails = [value for value in run.column("num_samples") if value and value < batch["samples"]]
    if tails:
        usual = Counter(tails).most_common(1)[0][0]
        sentences.append(
            f"{count(len(tails), 'shorter window')} (mostly {number(usual)} samples), each weighted by what it holds."
        )
    return sentences


def time_split(run: Run) -> list[Share]:
    """Where the seconds went; what no part claims is evaluation and the rest."""
    seconds = run.summary.get("seconds")
    if not isinstance(seconds, Mapping):
        return []
    parts = {name: value for name, value in seconds.items() if name != "total" and isinstance(value, int | float)}
    known = sum(parts.values())
    total = max(float(seconds.get("total") or 0.0), known)
    if total <= 0:
        return []
    parts["evaluation_other"] = total - known
    return [Share(name.replace("_", " and ", 1), value, value / total) for name, value in parts.items()]


def confusion_of(run: Run) -> Confusion | None:
    """The last validation's confusion matrix with the scores of each class."""
    evaluation = last_evaluation(run)
    rows = evaluation.get("confusion")
    if not rows:
        return None
    names = run.class_names
    if len(names) != len(rows):
        names = [str(index) for index in range(len(rows))]
    scores = [
        tuple(_at(evaluation.get(name), index) for name in ("precision", "recall", "f1", "support"))
        for index in range(len(rows))
    ]
    heading = f"Validation after {count(evaluation.get('update') or 0, 'update')}"
    return Confusion(
        tuple(names),
        tuple(tuple(row) for row in rows),
        tuple((p, r, f, int(s if s is not None else sum(row))) for (p, r, f, s), row in zip(scores, rows, strict=True)),
        heading,
    )


def environment(run: Run) -> list[tuple[str, str]]:
    """Task, device and versions."""
    summary = run.summary
    pairs = [
        (name, str(summary[name])) for name in ("task", "device", "reduction", "exit") if summary.get(name) is not None
    ]
    versions = summary.get("versions")
    if isinstance(versions, Mapping):
        pairs += [(str(name), str(version)) for name, version in versions.items()]
    return [*pairs, ("run directory", str(run.path))]


def _at(values: Sequence[Any] | None, index: int) -> Any:
    return values[index] if values is not None and index < len(values) else None


def _score_fact(run: Run) -> Fact | None:
    evaluation = last_evaluation(run)
    for name, label in (("accuracy", "validation accuracy"), ("r2", "validation R²"), ("perplexity", "perplexity")):
        value = evaluation.get(name)
        if value is None:
            continue
        recalls = [recall for recall in evaluation.get("recall") or () if recall is not None]
        note = f"lowest recall {percent(min(recalls))}" if recalls else ""
        return Fact(label, percent(value) if name == "accuracy" else number(value), note)
    return None


def _loss_fact(run: Run) -> Fact | None:
    first, last = ends_of(run.column("loss"))
    if last is None:
        return None
    validation = last_evaluation(run).get("loss")
    note = f"from {number(first)}" + (f"; validation {number(validation)}" if validation is not None else "")
    return Fact("training loss", number(last), note)


def _batch_fact(run: Run) -> Fact | None:
    batch = effective_batch(run)
    if not batch.get("samples"):
        return None
    factors = [number(batch[name]) for name in ("micro_batch_size", "steps", "ranks") if batch.get(name)]
    if batch.get("ranks") == 1:
        factors = factors[:-1]
    return Fact("effective batch", number(batch["samples"]), " × ".join(factors) if len(factors) > 1 else "")


def _updates_fact(run: Run) -> Fact | None:
    total = run.summary.get("num_updates") or len(run.updates)
    skipped = sum(bool(update.get("skipped")) for update in run.updates)
    epochs = run.summary.get("num_epochs")
    notes = [count(epochs, "epoch")] if epochs else []
    notes += [f"{skipped:,} skipped"] if skipped else []
    return Fact("updates", f"{total:,}", ", ".join(notes)) if total else None


def _time_fact(run: Run) -> Fact | None:
    total = (run.summary.get("seconds") or {}).get("total")
    return Fact("time", duration(total), str(run.summary.get("device") or "")) if total else None


def _memory_fact(run: Run) -> Fact | None:
    peak = run.summary.get("peak_memory_bytes")
    return Fact("peak memory", size(peak)) if peak else None
