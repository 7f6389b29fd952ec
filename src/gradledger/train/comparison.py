"""Trains arms side by side, from one seed and in one order of the samples, and measures how they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from gradledger.engine import NonFiniteError
from gradledger.metrics import Evaluation
from gradledger.train.arms import ARMS, Arm
from gradledger.train.config import TrainConfig
from gradledger.train.data import Data
from gradledger.train.faulty import FaultyPasses
from gradledger.train.files import RunFiles
from gradledger.train.passes import EnginePasses
from gradledger.train.records import STOPPED, EvaluationRecord, Observer, Summary, UpdateRecord
from gradledger.train.run import Run
from gradledger.train.run_directory import RunDirectory, finite_or_null
from gradledger.train.setup import Setup, prepare
from gradledger.train.statistics import Estimate, estimate


@dataclass(frozen=True)
class ArmRun:
    """One arm trained from one seed.

    Args:
        arm: The arm's name.
        seed: The seed.
        exit: How the run ended; ``failed`` where the loss was not finite.
        num_updates: Updates made.
        seconds: Time taken.
        peak_memory_bytes: See :class:`gradledger.train.records.Summary`.
        validation: The last evaluation of the validation set; None where there was none.
        losses: The loss of each update.
        max_grad_norm: The largest gradient norm before clipping.
        validation_losses: After each epoch.
        parameters: All parameters at the end, in one vector.
    """

    arm: str
    seed: int
    exit: str
    num_updates: int
    seconds: float
    peak_memory_bytes: int | None
    validation: Evaluation | None
    losses: list[float]
    max_grad_norm: float
    validation_losses: list[float]
    parameters: Tensor

    @property
    def unsteadiness(self) -> float:
        """How far the loss moves from one update to the next, on average over the second half of the run."""
        changes = [abs(after - before) for before, after in pairwise(self._late_losses)]
        return fmean(changes) if changes else math.nan

    @property
    def late_loss(self) -> float:
        """The mean training loss of the second half of the run."""
        return fmean(self._late_losses) if self.losses else math.nan

    @property
    def _late_losses(self) -> list[float]:
        return self.losses[len(self.losses) // 2 :]

    def number(self, name: str) -> float:
        """A figure of the run by its name; NaN where it has none."""
        own = {"num_updates": self.num_updates, "seconds": self.seconds, "late_loss": self.late_loss}
        own["unsteadiness"] = self.unsteadiness
        own |= {"max_grad_norm": self.max_grad_norm, "peak_memory_bytes": self.peak_memory_bytes or math.nan}
        if name in own:
            return float(own[name])
        record = {} if self.validation is None else self.validation.as_record()
        if name == "lowest_recall":
            return min(record["recall"]) if "recall" in record else math.nan
        value = record.get(name)
        return math.nan if value is None else float(value)

    def as_record(self) -> dict[str, Any]:
        """What compare.json holds of it."""
        return {
            "seed": self.seed,
            "directory": f"{self.arm}/seed-{self.seed}",
            "exit": self.exit,
            "num_updates": self.num_updates,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "max_grad_norm": self.max_grad_norm,
            "late_loss": self.late_loss,
            "unsteadiness": self.unsteadiness,
            "validation": None if self.validation is None else self.validation.as_record(),
        }


@dataclass(frozen=True)
class Difference:
    """How far the parameters of ``accumulated`` are from those of ``large-batch``.

    Args:
        seed: The seed of both.
        dtype: What both were trained in.
        after: The number of updates.
        largest: The largest difference of any parameter.
        relative: The norm of the difference, relative to that of the parameters.
    """

    seed: int
    dtype: str
    after: int
    largest: float
    relative: float


@dataclass
class Comparison:
    """Arms × seeds.

    Args:
        config: The completed configuration that every arm changes a little.
        data: What all were trained on.
        arms: In the order they are shown.
        seeds: The seeds.
        runs: What has been trained.
        differences: Accumulated against large batch, a seed each.
        in_float64: The same for the first seed in float64: after the first update, and at the end.
    """

    config: TrainConfig
    data: Data
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    runs: list[ArmRun] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    in_float64: list[Difference] = field(default_factory=list)

    def of(self, arm: str) -> list[ArmRun]:
        """The runs of one arm, by seed."""
        return [run for run in self.runs if run.arm == arm]

    def estimate(self, arm: str, name: str) -> Estimate:
        """Mean and interval of a figure over the seeds of an arm."""
        return estimate([run.number(name) for run in self.of(arm)])

    def paired(self, arm: str, baseline: str, name: str) -> Estimate:
        """Mean and interval of an arm's difference from another, seed by seed."""
        before = {run.seed: run.number(name) for run in self.of(baseline)}
        return estimate([run.number(name) - before[run.seed] for run in self.of(arm) if run.seed in before])

    def has(self, *arms: str) -> bool:
        """Whether all of these arms have runs."""
        return all(self.of(arm) for arm in arms)

    def as_record(self, statements: Sequence[str]) -> dict[str, Any]:
        """What compare.json holds."""
        names = [*figures_of(self), *COSTS]
        return {
            "version": 1,
            "task": self.data.task,
            "class_names": list(self.data.class_names),
            "statements": list(statements),
            "seeds": list(self.seeds),
            "config": self.config.model_dump(),
            "arms": [
                {
                    "name": arm.name,
                    "description": arm.description,
                    "is_broken": arm.fault is not None,
                    "estimates": {name: vars(self.estimate(arm.name, name)) for name in names},
                    "runs": [run.as_record() for run in self.of(arm.name)],
                }
                for arm in self.arms
            ],
            "differences": [vars(difference) for difference in self.differences],
            "in_float64": [vars(difference) for difference in self.in_float64],
        }


COSTS = ("num_updates", "seconds", "late_loss", "unsteadiness", "max_grad_norm", "peak_memory_bytes")
"""The names of the figures that say what a run took, and how steadily it learnt."""


def figures_of(comparison: Comparison) -> list[str]:
    """The names of the figures that the task is measured by, the loss first."""
    if comparison.data.task == "regression":
        return ["loss", "rmse", "mae"]
    if comparison.data.task == "language-model":
        return ["loss", "perplexity", "accuracy"]
    binary = ["pr_auc"] if len(comparison.data.class_names) == 2 else []
    return ["loss", "accuracy", "macro_f1", "lowest_recall", *binary]


def compare(comparison: Comparison, directory: Path) -> Iterator[ArmRun]:
    """Train every arm from every seed, and then compare.

    Args:
        comparison: What to train; the results are added to it.
        directory: Each run gets a directory ``ARM/seed-SEED`` in it.

    Yields:
        Each run as it ends. The first that was interrupted is the last.
    """
    for seed in comparison.seeds:
        for arm in comparison.arms:
            run = _train_arm(comparison, arm, seed, directory / arm.name / f"seed-{seed}")
            comparison.runs.append(run)
            yield run
            if run.exit in STOPPED:
                return
    if comparison.has("accumulated", "large-batch"):
        pairs = zip(comparison.of("accumulated"), comparison.of("large-batch"), strict=True)
        comparison.differences += [
            _difference(one.seed, "float32", one.num_updates, one.parameters, other.parameters) for one, other in pairs
        ]
        comparison.in_float64 += _differences_in_float64(comparison)


def write_comparison(comparison: Comparison, statements: Sequence[str], directory: Path) -> None:
    """Write compare.json."""
    record = finite_or_null(comparison.as_record(statements))
    (directory / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class _Curves(Observer):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.max_grad_norm = 0.0

    def update(self, record: UpdateRecord) -> None:
        self.losses.append(record.loss)
        self.max_grad_norm = max(self.max_grad_norm, record.grad_norm or 0.0)

    def evaluation(self, record: EvaluationRecord) -> None:
        if record.split == "validation":
            self.validation_losses.append(record.evaluation.loss)


def _train_arm(comparison: Comparison, arm: Arm, seed: int, path: Path) -> ArmRun:
    setup = prepare(_config_of(comparison, arm, seed), comparison.data)
    curves = _Curves()
    last = _LastSummary()
    run = _make_run(setup, arm, [RunFiles(RunDirectory(path)), curves, last])
    with suppress(NonFiniteError):  # an arm that diverges is a result
        run.train()
    summary = last.summary
    assert summary is not None
    return ArmRun(
        arm=arm.name,
        seed=seed,
        exit=summary.exit,
        num_updates=summary.num_updates,
        seconds=summary.seconds["total"],
        peak_memory_bytes=summary.peak_memory_bytes,
        validation=run.evaluations.get("validation"),
        losses=curves.losses,
        max_grad_norm=curves.max_grad_norm,
        validation_losses=curves.validation_losses,
        parameters=_parameters(setup.model),
    )


class _LastSummary(Observer):
    def __init__(self) -> None:
        self.summary: Summary | None = None

    def end(self, summary: Summary) -> None:
        self.summary = summary


def _config_of(comparison: Comparison, arm: Arm, seed: int) -> TrainConfig:
    return arm.configure(comparison.config).model_copy(update={"seed": seed, "name": f"seed-{seed}"})


def _make_run(setup: Setup, arm: Arm, observers: Sequence[Observer]) -> Run:
    return Run(setup, observers, EnginePasses if arm.fault is None else partial(FaultyPasses, arm.fault))


def _parameters(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().double().cpu()


def _difference(seed: int, dtype: str, after: int, one: Tensor, other: Tensor) -> Difference:
    apart = one - other
    return Difference(seed, dtype, after, apart.abs().max().item(), (apart.norm() / other.norm()).item())


class _FirstUpdate(Observer):
    """Keeps the parameters as they are after the first update."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.parameters: Tensor | None = None

    def update(self, record: UpdateRecord) -> None:
        if self.parameters is None:
            self.parameters = _parameters(self._model)


def _differences_in_float64(comparison: Comparison) -> list[Difference]:
    """The first seed again: what differs after one update in float64 is no rounding, what grows later may be."""
    if comparison.config.precision != "32-true":
        return []
    seed, ends, firsts, num_updates = comparison.seeds[0], [], [], 0
    for name in ("accumulated", "large-batch"):
        setup = prepare(_config_of(comparison, ARMS[name], seed), comparison.data)
        if setup.device.type == "mps":  # knows no float64
            return []
        setup = _in_float64(setup)
        first = _FirstUpdate(setup.model)
        try:
            num_updates = _make_run(setup, ARMS[name], [first]).train().num_updates
        except NonFiniteError:
            return []
        ends.append(_parameters(setup.model))
        if first.parameters is not None:
            firsts.append(first.parameters)
    pairs = {1: firsts, num_updates: ends}
    return [_difference(seed, "float64", after, *pair) for after, pair in pairs.items() if len(pair) == 2]


def _in_float64(setup: Setup) -> Setup:
    def cast(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)

    setup.model.double().register_forward_pre_hook(cast)

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        return setup.loss(outputs, labels.double() if labels.is_floating_point() else labels)

    return replace(setup, loss=loss)


def random_or_coupled_layers(config: TrainConfig, data: Data) -> list[str]:
    """Kinds of layers with which one large batch is not the sum of its parts: random ones, and batch statistics."""
    model = prepare(config, data).model
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return sorted({type(m).__name__ for m in model.modules() if isinstance(m, kinds) and getattr(m, "p", 1) > 0})
