"""A training run: epochs, evaluations, the ledger's marks, and those who watch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from gradledger import __version__
from gradledger.ledger import Entry, Evaluate, Metric
from gradledger.metrics import Evaluation, evaluate, import_torchmetrics
from gradledger.train.checkpoint.keeping import Keeper
from gradledger.train.config import Tail
from gradledger.train.interrupts import NOTHING_ASKED, Asked, Interrupts, TerminatedError
from gradledger.train.loading import evaluation_batches
from gradledger.train.marks import leakage, metric_values
from gradledger.train.memory import PeakMemory
from gradledger.train.parallel import is_sharded, to_evaluate, weights_writer
from gradledger.train.passes import Clock, EnginePasses, Passes, Update
from gradledger.train.progress import Progress, Split
from gradledger.train.records import EvaluationRecord, Exit, Observer, Summary, UpdateRecord
from gradledger.train.setup import Setup, set_seed, threads
from gradledger.train.states import load_state, state_of

_UPDATES_PER_READ_ON_ACCELERATOR = 16
"""Reading a loss waits for the device, so there it is done for several updates at once."""


class Run:
    """One training run.

    Args:
        setup: What to train, with what.
        observers: Are told of each update, ledger entry and evaluation, in order.
        make_passes: Makes the way of training; None: the engine's.
        keeper: Writes checkpoints; None: there are none.

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
        keeper: Keeper | None = None,
    ) -> None:
        self.setup = setup
        self.evaluations: dict[str, Evaluation] = {}
        self._observers = observers
        self._clock = Clock()
        self._memory = PeakMemory(setup.model, setup.device)
        self._interrupts = Interrupts()
        self._passes = make_passes(setup, self._clock, self._memory, self._interrupts)
        self.keeper = keeper
        self._unread: list[tuple[int, Update]] = []
        self._num_entries_told = 0
        self._progress = Progress()
        self._updates_per_read = 1 if setup.device.type == "cpu" else _UPDATES_PER_READ_ON_ACCELERATOR

    def train(self, state: Mapping[str, Any] | None = None) -> Summary:
        """Train to the end, or until Ctrl-C or SIGTERM: the run is saved, and an open window is void.

        Args:
            state: Go on from here: what a :class:`~gradledger.train.checkpoint.reading.Checkpoint` loads.

        Returns:
            The summary, which says how it ended.

        Raises:
            UserError: The state is not one of this run.
            Exception: Whatever training raised, after the observers were told the end.
        """
        import_torchmetrics()  # so that loading it is not taken for training
        with threads(self.setup), self._interrupts:
            return self._train(state)

    def _train(self, state: Mapping[str, Any] | None) -> Summary:
        exit: Exit = "failed"
        try:
            with self.setup.ranks.telling():
                self._begin(state)
                self._train_epochs()
            exit = "finished"
        except TerminatedError:
            exit = "terminated"
        except KeyboardInterrupt:
            exit = "interrupted"
        finally:
            summary = self._end(exit)
        return summary

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        config = self.setup.config
        self._tell(lambda observer: observer.begin(config, self.setup.num_planned_updates))
        self.setup.model.train()
        set_seed(config.seed, self.setup.ranks.rank)  # what happened since the model was made does not matter
        self._clock.start()
        if state is not None:
            self._progress = load_state(state, self.setup, self._passes, self._clock, self._memory)

    def _train_epochs(self) -> None:
        progress, num_epochs = self._progress, self.setup.config.epochs
        while progress.epoch <= num_epochs:
            self._train_epoch()
            progress.begin_next_epoch()
            if self.setup.config.checkpoint_every == "epoch":
                self._save()
            self._pause_together()
        self._evaluate("train", num_epochs)
        if "validation" not in self.evaluations:  # gone on from the end of the last epoch
            self.evaluations["validation"] = self._measure("validation")

    # Checkpoints

    def _pause(self) -> None:
        """Between micro-batches, where several ranks cannot meet: save and stop if somebody asked for it."""
        if self._interrupts.asked is not NOTHING_ASKED and self.setup.ranks.size == 1:
            self._obey(self._interrupts.asked)

    def _pause_together(self) -> None:
        """Between epochs: the same, on all ranks."""
        asked = self.setup.ranks.total("look for signals", *self._interrupts.asked)
        self._obey(Asked(*map(bool, asked)))

    def _obey(self, asked: Asked) -> None:
        if any(asked):
            self._interrupts.forget_checkpoint()
            self._save()
            asked.stop()

    def _save(self) -> None:
        """Make a checkpoint here, where every line about what was done before it has been written."""
        if self.keeper is None:
            return
        self._read_updates()
        passes = self._passes
        state = state_of(self.setup, passes, self._progress, self._clock, self._memory)
        self.keeper.save(state, update=passes.num_updates, micro_batch=passes.num_done_in_window)
        self._progress.saved_update = passes.num_updates

    # The end

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

    # An epoch

    def _train_epoch(self) -> None:
        config, progress = self.setup.config, self._progress
        is_last = progress.epoch == config.epochs
        tail: Tail = "keep" if is_last and config.tail == "carry" else config.tail
        passes = self._passes.one_pass(epoch=progress.epoch, tail=tail, pause=self._pause)
        for update in () if progress.is_trained else passes:
            self._unread.append((progress.epoch, update))
            if len(self._unread) >= self._updates_per_read:
                self._read_updates()
            if progress.is_checkpoint_due(update.update, config.checkpoint_every):
                self._save()
            self._obey(update.asked)
        progress.is_trained = True
        self._read_updates()
        evaluation = self._evaluate("validation", progress.epoch)
        self._passes.schedule(evaluation.loss)

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
            self._progress.loss.add(record.loss, record.num_samples)
            self._tell(lambda observer, record=record: observer.update(record))  # type: ignore[misc]  # bound now
        self._unread.clear()

    def _tell_entries(self) -> None:
        ledger = self._passes.ledger
        entries: list[Entry] = ledger.since(self._num_entries_told)
        self._num_entries_told = ledger.num_recorded
        if entries:
            self._tell(lambda observer: observer.entries(entries))

    def _evaluate(self, split: Split, epoch: int) -> Evaluation:
        setup = self.setup
        try:
            evaluation = self.evaluations[split] = self._measure(split)
        except KeyboardInterrupt:
            if not self._interrupts.is_urgent:
                self._save()  # the random generators are as they were before it
            raise
        is_first = split not in self._progress.evaluated
        self._progress.evaluated.add(split)
        passes = self._passes
        place: dict[str, Any] = {
            "rank": setup.ranks.rank,
            "micro_batch": passes.num_micro_batches,
            "update": passes.num_updates,
        }
        marks: list[Entry] = [Evaluate(**place)]
        if setup.ranks.is_first:  # one for all ranks
            marks += self._metrics(evaluation, split, place, is_first=is_first)
        self._passes.ledger.extend(marks)
        record = EvaluationRecord(self._passes.num_updates, epoch, split, evaluation)
        self._tell(lambda observer: observer.evaluation(record))
        self._tell_entries()
        return evaluation

    def _measure(self, split: Split) -> Evaluation:
        setup = self.setup
        dataset = setup.data.train if split == "train" else setup.data.validation
        batches = evaluation_batches(dataset, setup.config.micro_batch_size, setup.share)
        with setup.ranks.telling(can_meet=not is_sharded(setup.model)):
            return evaluate(
                to_evaluate(setup.model),
                batches if setup.ranks.size > 1 else self._stopping_between(batches),
                setup.loss,
                task=setup.data.task,
                num_classes=setup.data.num_outputs,
                weight=setup.weight,
                device=setup.device,
                autocast=self._autocast,
                gather=lambda part: setup.ranks.gather(part, "end of an evaluation"),
            )

    def _stopping_between(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            self._interrupts.asked.stop()
            yield batch

    def _metrics(self, evaluation: Evaluation, split: str, place: dict[str, Any], *, is_first: bool) -> Iterator[Entry]:
        if split == "validation":
            if is_first:
                yield from leakage(self.setup.data, self._passes.num_updates)
            yield Metric(name="loss", value=self._progress.loss.take(), split="train", **place)
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
            num_epochs=self._progress.epoch - 1,
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
