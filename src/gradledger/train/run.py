"""A training run: epochs, evaluations, the ledger's marks, and those who watch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch.utils.data import TensorDataset

from gradledger import __version__
from gradledger.ledger import Entry, Evaluate, Metric
from gradledger.metrics import ClassificationMetrics, Evaluation, evaluate, find_leakage, import_torchmetrics
from gradledger.train.interrupts import Interrupts
from gradledger.train.loading import evaluation_batches, set_epoch
from gradledger.train.memory import PeakMemory
from gradledger.train.parallel import is_sharded, to_evaluate, weights_writer
from gradledger.train.passes import Clock, EnginePasses, Passes, Update
from gradledger.train.records import EvaluationRecord, Exit, Observer, Summary, UpdateRecord
from gradledger.train.setup import Setup, set_seed, threads

_UPDATES_PER_READ_ON_ACCELERATOR = 16
"""Reading a loss waits for the device, so there it is done for several updates at once."""

_MOST_SAMPLES_COMPARED = 50_000
"""In larger data sets nobody looks for shared samples unasked: it would take longer than a moment."""


class Run:
    """One training run.

    Args:
        setup: What to train, with what.
        observers: Are told of each update, ledger entry and evaluation, in order.
        make_passes: Makes the way of training; None: the engine's.

    Example:
        >>> from gradledger.train import load_config, prepare
        >>> run = Run(prepare(load_config(overrides=["epochs=2", "device=cpu"])))
        >>> summary = run.train()
        >>> summary.exit, summary.num_updates, run.evaluations["validation"].metrics.num_samples
        ('finished', 46, 360)
    """

    def __init__(
        self,
        setup: Setup,
        observers: Sequence[Observer] = (),
        make_passes: Callable[[Setup, Clock, PeakMemory, Interrupts], Passes] = EnginePasses,
    ) -> None:
        self.setup = setup
        self.evaluations: dict[str, Evaluation] = {}
        self._observers = observers
        self._clock = Clock()
        self._memory = PeakMemory(setup.model, setup.device)
        self._interrupts = Interrupts()
        self._passes = make_passes(setup, self._clock, self._memory, self._interrupts)
        self._unread: list[tuple[int, Update]] = []
        self._num_entries_told = 0
        self._num_epochs = 0
        self._epoch_loss = _WeightedMean()
        is_cpu = setup.device.type == "cpu"
        self._updates_per_read = 1 if is_cpu else _UPDATES_PER_READ_ON_ACCELERATOR

    def train(self) -> Summary:
        """Train to the end, or until Ctrl-C.

        Returns:
            The summary; ``exit`` is ``"interrupted"`` after Ctrl-C, with the open window voided.

        Raises:
            Exception: Whatever training raised, after the observers were told the end.
        """
        import_torchmetrics()  # so that loading it is not taken for training
        with threads(self.setup), self._interrupts:
            return self._train()

    def _train(self) -> Summary:
        exit: Exit = "failed"
        try:
            with self.setup.ranks.telling():
                self._train_epochs()
            exit = "finished"
        except KeyboardInterrupt:
            exit = "interrupted"
        finally:
            summary = self._end(exit)
        return summary

    def _train_epochs(self) -> None:
        config = self.setup.config
        self._tell(lambda observer: observer.begin(config, self.setup.num_planned_updates))
        self.setup.model.train()
        set_seed(config.seed, self.setup.ranks.rank)  # what happened since the model was made does not matter
        self._clock.start()
        for epoch in range(1, config.epochs + 1):
            self._train_epoch(epoch)
            self._num_epochs = epoch
        self._evaluate("train", config.epochs)
        self._interrupts.check_together(self.setup.ranks)

    def _end(self, exit: Exit) -> Summary:
        """Tell what is left to be told, and hand out the weights unless other ranks hold parts of them and are gone."""
        try:
            self._read_updates()
        finally:
            try:
                is_reachable = exit != "failed" and not self._interrupts.is_urgent
                if is_reachable or not is_sharded(self.setup.model):
                    write = weights_writer(self.setup.model)
                    self._tell(lambda observer: observer.weights(write))
            finally:
                summary = self._summary(exit)
                self._tell(lambda observer: observer.end(summary))
        return summary

    def _leakage(self, update: int) -> Iterator[Entry]:
        """What training and validation set share, where looking cannot draw random numbers."""
        train, validation = self.setup.data.train, self.setup.data.validation
        if not isinstance(train, TensorDataset) or not isinstance(validation, TensorDataset):
            return
        if len(train) + len(validation) <= _MOST_SAMPLES_COMPARED:
            yield from find_leakage(train.tensors[0], validation.tensors[0]).entries(update)

    def _train_epoch(self, epoch: int) -> None:
        config = self.setup.config
        set_epoch(self.setup.loader, epoch)
        is_last = epoch == config.epochs
        for update in self._passes.one_pass(tail="keep" if is_last and config.tail == "carry" else config.tail):
            self._unread.append((epoch, update))
            if len(self._unread) >= self._updates_per_read:
                self._read_updates()
        self._read_updates()
        evaluation = self._evaluate("validation", epoch)
        self._passes.schedule(evaluation.loss)
        self._interrupts.check_together(self.setup.ranks)

    def _read_updates(self) -> None:
        """Fetch what closed windows came to, and tell it with the ledger's new entries."""
        self._tell_entries()
        for epoch, update in self._unread:
            window = update.window
            record = UpdateRecord(
                update=update.update,
                epoch=epoch,
                loss=window.loss,
                grad_norm=window.grad_norm,
                lr=update.lr,
                num_samples=update.num_samples,
                num_micro_batches=update.num_micro_batches,
                seconds=update.seconds,
                skipped=window.skipped,
            )
            self._epoch_loss.add(record.loss, record.num_samples)
            self._tell(lambda observer, record=record: observer.update(record))  # type: ignore[misc]  # bound now
        self._unread.clear()

    def _tell_entries(self) -> None:
        ledger = self._passes.ledger
        entries: list[Entry] = ledger.since(self._num_entries_told)
        self._num_entries_told = ledger.num_recorded
        if entries:
            self._tell(lambda observer: observer.entries(entries))

    def _evaluate(self, split: Literal["train", "validation"], epoch: int) -> Evaluation:
        setup = self.setup
        dataset = setup.data.train if split == "train" else setup.data.validation
        with setup.ranks.telling(can_meet=not is_sharded(setup.model)):
            evaluation = evaluate(
                to_evaluate(setup.model),
                evaluation_batches(dataset, setup.config.micro_batch_size, setup.share),
                setup.loss,
                task=setup.data.task,
                num_classes=setup.data.num_outputs,
                weight=setup.weight,
                device=setup.device,
                autocast=self._autocast,
                gather=lambda part: setup.ranks.gather(part, "end of an evaluation"),
            )
        is_first = split not in self.evaluations
        self.evaluations[split] = evaluation
        place: dict[str, Any] = {
            "rank": setup.ranks.rank,
            "micro_batch": self._passes.num_micro_batches,
            "update": self._passes.num_updates,
        }
        marks: list[Entry] = [Evaluate(**place)]
        if setup.ranks.is_first:  # one for all ranks
            marks += self._metrics(evaluation, split, place, is_first=is_first)
        self._passes.ledger.extend(marks)
        record = EvaluationRecord(self._passes.num_updates, epoch, split, evaluation)
        self._tell(lambda observer: observer.evaluation(record))
        self._tell_entries()
        return evaluation

    def _metrics(self, evaluation: Evaluation, split: str, place: dict[str, Any], *, is_first: bool) -> Iterator[Entry]:
        if split == "validation":
            if is_first:
                yield from self._leakage(self._passes.num_updates)
            yield Metric(name="loss", value=self._epoch_loss.take(), split="train", **place)
        for name, value in metric_values(evaluation, self.setup.data.class_names):
            yield Metric(name=name, value=value, split=split, **place)

    def _autocast(self) -> AbstractContextManager[Any]:
        types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        dtype = types.get(self.setup.config.precision)
        return nullcontext() if dtype is None else torch.autocast(self.setup.device.type, dtype=dtype)

    def _summary(self, exit: Exit) -> Summary:
        config, data = self.setup.config, self.setup.data
        return Summary(
            exit=exit,
            num_updates=self._passes.num_updates,
            num_epochs=self._num_epochs,
            seconds={"total": self._clock.total, **self._clock.seconds},
            peak_memory_bytes=self._memory.peak_bytes(),
            details={
                "task": data.task,
                "class_names": list(data.class_names),
                "effective_batch": {
                    "micro_batch_size": config.micro_batch_size,
                    "steps": config.num_micro_batches_per_window,
                    "ranks": config.num_ranks,
                    "samples": config.effective_num_samples,
                },
                **({} if self._passes.reduction is None else {"reduction": self._passes.reduction}),
                "device": str(self.setup.device),
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "gradledger": __version__,
                },
            },
        )

    def _tell(self, message: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            message(observer)


class _WeightedMean:
    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, value: float, weight: float) -> None:
        self._sum += value * weight
        self._weight += weight

    def take(self) -> float:
        """The mean since it was last taken."""
        mean = self._sum / self._weight if self._weight else float("nan")
        self._sum = self._weight = 0.0
        return mean


def metric_values(evaluation: Evaluation, class_names: Sequence[str]) -> list[tuple[str, float]]:
    """Names and values for the ledger; those of one class are named such as ``recall/malignant``."""
    record = evaluation.as_record()
    numbers = {name: value for name, value in record.items() if isinstance(value, float | int)}
    values = [(name, float(value)) for name, value in numbers.items()]
    if isinstance(evaluation.metrics, ClassificationMetrics):
        for name in ("precision", "recall", "f1", "support"):
            for class_name, value in zip(class_names, record[name], strict=True):
                values.append((f"{name}/{class_name}", float(value)))
    return values
