"""The accumulator: a model, its optimizer, and windows that balance by construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradledger.engine.account import Account
from gradledger.engine.batches.lengths import (
    ByTokens,
    Lengths,
    Repartition,
    TokenBudget,
    check_budget,
    read_padded_samples,
)
from gradledger.engine.batches.splitting import Samples, Split, read_samples
from gradledger.engine.batches.staging import Stage
from gradledger.engine.closing import (
    ClosingPolicy,
    NonFinite,
    advance,
    apply_update,
    learning_rate_of,
    schedule_on_metric,
)
from gradledger.engine.compiling import Compile, compiled_model
from gradledger.engine.coupled import CoupledLoss, Encoder, MicroBatchSize, update_coupled
from gradledger.engine.graphs.updates import graphed_updates
from gradledger.engine.grouping import Filling, FixedSamples, FixedSteps, Steps, Tail, check_steps, check_tail, group
from gradledger.engine.horizon import known_length
from gradledger.engine.memory.accounting import GradientBytes, gradient_bytes
from gradledger.engine.memory.checkpointing import Checkpointing, CheckpointingChoice
from gradledger.engine.memory.fitting import Size, Sizes
from gradledger.engine.memory.offloading import Offload, host_gradients
from gradledger.engine.memory.recovering import Pieces, Recovery
from gradledger.engine.memory.sizing import BySamples, Cutting
from gradledger.engine.norms import BatchNormStatistics, pooled_statistics
from gradledger.engine.parallel.cost import SyncCost
from gradledger.engine.parallel.together import Sync, find_ranks
from gradledger.engine.precision import Precision
from gradledger.engine.record import WindowRecord
from gradledger.engine.replaying import LossFunction, Replay, needs_closure
from gradledger.engine.state import Progress, accumulator_state, generators_of, load_accumulator_state
from gradledger.engine.weights import Weight, WeightTable
from gradledger.engine.window import Window
from gradledger.errors import UserError
from gradledger.ledger import DEFAULT_ACCOUNT, EpochEnd, EpochStart, Ledger, Schedule

_MAX_LEDGER_ENTRIES = 50_000
_MAX_SEEDS = 1024
UpdateHook = TypeVar("UpdateHook", bound=Callable[[Window], Any])


class Accumulator:
    """Trains a model in micro-batches with the update of the whole effective batch.

    Args:
        model: The module to train.
        optimizer: Owns the parameters to train; everything it owns is this accumulator's account.
        scheduler: Advances once per update. A ``ReduceLROnPlateau`` advances with :meth:`schedule` instead.
        clip_norm: Bound on the total 2-norm of the window's gradient.
        clip_value: Bound on each value of the window's gradient.
        precision: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"`` or ``"bf16-true"``.
        weight: Units that a micro-batch's loss is a mean over: None counts samples (the leading dimension), a number
            is the same for all, a callable counts a micro-batch, a mapping ``{unit: number or callable}`` serves
            several terms.
        device: Where micro-batches are moved before they are handed out. None leaves them where they are.
        accumulate_dtype: The type that gradients accumulate in; None is the parameters' own.
        non_finite: What becomes of a window whose loss or gradient is not finite.
        scaler: A gradient scaler shared with other accumulators, for ``"16-mixed"``.
        name: The account's name in the ledger.
        batch_norm: ``"micro-batch"`` moves BatchNorm's running statistics with every micro-batch, as torch does;
            ``"pooled"`` moves them once per update, by the statistics of all its samples.
        checkpointing: Activation checkpointing: in a window, blocks of the model keep only their inputs and are run
            again in the backward. True takes the model's repeated blocks; else a list of modules, or a callable that
            says whether a module is one. Gradients, dropout and buffers are the same.
        offload: ``"cpu"`` keeps what a window accumulates in host memory until its close, for models whose gradients
            do not fit beside the activations.
        compile: Compile the model's calls with ``torch.compile``, once for full micro-batches and tails; True, or a
            mapping of its arguments. The model is as it was when the accumulator is gone.
        cuda_graph: Capture forward and backward of a micro-batch of :meth:`update` as a CUDA graph, and replay it. What
            ``loss_fn`` reads beside the tensors of the micro-batch is fixed by the capture.
        sync: Over several ranks, when gradients are reduced: ``"last"`` once, with the window's last micro-batch;
            ``"every"`` with each one. ``"auto"`` is ``"last"``, unless whole gradients of a sharded model would take
            over half of the memory there is. ``"none"``: each rank trains a model of its own. See :attr:`sync_cost`.
        compare_ranks_every: Over several ranks, updates between comparisons of the ranks' gradients and parameters,
            which are compared in the first three updates too; 0: never.
        fused: Whether the optimizer is switched to torch's fused implementation, the same step in one pass over the
            memory. None: where it was made with neither ``fused=`` nor ``foreach=`` and torch has the kernels. False
            leaves it as it is.

    Raises:
        UserError: An argument is out of range, or the optimizer owns nothing to train.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> accumulator = Accumulator(model, optimizer, clip_norm=1.0)
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(7)]
        >>> for window in accumulator.windows(batches, steps=4):
        ...     with window:
        ...         for inputs, labels in window:
        ...             window.backward(torch.nn.functional.cross_entropy(model(inputs), labels))
        >>> accumulator.num_updates, window.num_micro_batches, window.weight
        (2, 3, 48.0)
        >>> accumulator.ledger.text()
        '( B B B B C S Z B B B C S Z )'
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        scheduler: LRScheduler | ReduceLROnPlateau | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        precision: str = "32-true",
        weight: Weight | Mapping[str, Weight] | None = None,
        device: torch.device | str | None = None,
        accumulate_dtype: torch.dtype | None = None,
        non_finite: NonFinite = "raise",
        scaler: GradScaler | None = None,
        name: str = DEFAULT_ACCOUNT,
        batch_norm: BatchNormStatistics = "micro-batch",
        checkpointing: CheckpointingChoice = False,
        offload: Offload | None = None,
        compile: Compile = False,
        cuda_graph: bool = False,
        sync: Sync = "auto",
        compare_ranks_every: int = 100,
        fused: bool | None = None,
    ) -> None:
        _check_type("model", model, nn.Module)
        _check_type("optimizer", optimizer, Optimizer)
        if scheduler is not None:
            _check_type("scheduler", scheduler, (LRScheduler, ReduceLROnPlateau))
            if scheduler.optimizer is not optimizer:
                raise UserError(
                    "the scheduler was made for another optimizer than the accumulator's: make it for this one"
                )
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.ledger = Ledger(max_entries=_MAX_LEDGER_ENTRIES)
        self.num_updates = 0
        self.num_micro_batches = 0
        self._num_epochs = 0
        self._progress: Progress = "none"
        self._goes_on = False
        self._saved_window: Mapping[str, Any] | None = None
        self._policy = ClosingPolicy(clip_norm, clip_value, non_finite)
        self._weights = WeightTable(weight)
        self._account = Account(name, model, optimizer, fused=fused)
        self._precision = Precision(
            precision, self._account.parameters, scaler=scaler, accumulate_dtype=accumulate_dtype
        )
        self._account.host_gradients = host_gradients(offload, non_finite)
        self._device = None if device is None else torch.device(device)
        self._statistics = pooled_statistics(model, batch_norm)
        uncounted = nullcontext if self._statistics is None else self._statistics.held
        self._checkpointing = Checkpointing(model, checkpointing, uncounted) if checkpointing is not False else None
        self._compiled = compiled_model(model, compile, self)
        self._carried: list[Any] = []
        self._seeds: dict[Any, Tensor] = {}
        self._open_window: Window | None = None
        self._hooks: list[Callable[[Window], Any]] = []
        self._sizes = Sizes(self)
        self._together = find_ranks(model, self._account, self._weights, sync, compare_ranks_every)
        if self._together is not None:
            self._together.check_supported(self, needs_closure=needs_closure(optimizer))
        self._graphs = graphed_updates(self, cuda_graph)
        self.totals: dict[str, float] = {}

    def windows(
        self,
        loader: Iterable[Any],
        *,
        steps: Steps | None = None,
        effective_batch_size: int | None = None,
        tail: Tail = "keep",
        lengths: Callable[[Any], Any] | None = None,
        token_budget: TokenBudget = "auto",
        length_bucket: int | None = None,
        padding: float | Mapping[str, float] | None = None,
    ) -> Iterator[Window]:
        """One pass over a loader, as windows. Each is read whole, and no further, before it is handed out.

        Args:
            loader: Yields micro-batches; sized or not.
            steps: Micro-batches per window, or a callable that gives them for the update's index.
            effective_batch_size: Samples per window instead, over all ranks: a window is full with the micro-batch that
                reaches a rank's part of it.
            tail: What becomes of the micro-batches at the end that do not fill a window: ``"keep"`` makes a shorter
                window of them, exact by its own weight, and nothing is left at the end of training; ``"drop"`` leaves
                them out, so that they are never trained on; ``"carry"`` lets them begin the next pass's first window,
                and at the end of training :attr:`num_carried` of them wait unused (make the last pass with ``"keep"``).
            lengths: ``lengths(micro_batch)`` gives the tokens of each sample: the window's samples are then shared out
                anew, by length, into fewer micro-batches with less padding. The gradient is the same;
                :meth:`Window.in_order` puts outputs back into the loader's order.
            token_budget: The most tokens, padding counted, of such a micro-batch. ``"auto"`` is the most that the
                loader's own micro-batches of the window have.
            length_bucket: Round lengths up to a multiple of it, so that there are few shapes to compile for.
            padding: The value to pad with, or a mapping of them by key, where the batch itself does not show it.

        Raises:
            UserError: An argument is missing, out of range, or the loader is not iterable.
        """
        if (steps is None) == (effective_batch_size is None):
            raise UserError(f"give either steps= or effective_batch_size=, not {steps=} and {effective_batch_size=}")
        if not isinstance(loader, Iterable):
            raise UserError(f"the loader must be iterable, not {type(loader).__name__}")
        next_filling = self._filling(steps, effective_batch_size)
        check_tail(tail)
        repartition = None if lengths is None else Repartition(lengths, token_budget, length_bucket, padding)
        return self._pass_over(loader, next_filling, tail, repartition)

    def update(
        self,
        batch: Any,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        micro_batch_size: Size = "auto",
        split: Split | None = None,
        lengths: Lengths | None = None,
        token_budget: TokenBudget | None = None,
        length_bucket: int | None = None,
        cache: bool = True,
    ) -> Window:
        """One update from a whole effective batch, split to fit memory.

        When memory runs out the update goes on with smaller micro-batches: it is made once, from all samples, or not
        at all. The size is remembered, and a larger one tried again after many updates.

        Args:
            batch: Tensors or lists of samples that agree about the number of samples, in any nesting. Everything else
                in it is kept whole.
            loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss of a micro-batch, a scalar. It may be called
                again on the same samples.
            micro_batch_size: Samples per micro-batch. ``"auto"`` measures the bytes and seconds of a few sizes at the
                first batch and takes the fastest that fits.
            split: ``split(batch, micro_batch_size)`` gives the micro-batches of a batch that cannot be split otherwise.
            lengths: The tokens of each sample, or a callable that gives them for the batch: micro-batches are then made
                of samples of like length, and padding that none of them needs is cut off.
            token_budget: The most tokens, padding counted, of a micro-batch of such samples. ``"auto"`` (the default)
                measures, as for ``micro_batch_size``, and takes the fastest that fits.
            length_bucket: Round lengths up to a multiple of it, so that there are few shapes to compile for.
            cache: Remember the measured size for later runs, in ``$XDG_CACHE_HOME/gradledger``.

        Returns:
            The closed window.

        Raises:
            DoesNotFitError: Not even one sample fits in memory.
            UserError: The batch cannot be split, or anything that :meth:`Window.backward` raises.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(4, 1)
            >>> accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
            >>> update = accumulator.update(torch.randn(20, 4), lambda m, x: m(x).square().mean(), micro_batch_size=8)
            >>> update.num_micro_batches, update.weight
            (3, 20.0)
        """
        if lengths is None:
            if token_budget is not None or length_bucket is not None:
                raise UserError("token_budget= and length_bucket= need lengths=, the tokens of each sample")
            return self._update(read_samples(batch, split), loss_fn, micro_batch_size, BySamples(), cache=cache)
        if split is not None or micro_batch_size != "auto":
            raise UserError("lengths= makes micro-batches by token_budget=: leave out micro_batch_size= and split=")
        samples = read_padded_samples(batch, lengths, length_bucket)
        budget = check_budget("auto" if token_budget is None else token_budget, samples)
        return self._update(samples, loss_fn, budget, ByTokens(), cache=cache)

    def fitting_size(
        self,
        batch: Any,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        split: Split | None = None,
        cache: bool = True,
    ) -> int:
        """The micro-batch size that :meth:`update` would take for such a batch, for a loop of your own.

        Over several ranks it is the smallest of the ranks' sizes; all of them must ask.

        It is measured where it is not known; nothing is trained, and random numbers and buffers are as before.

        Args:
            batch: An effective batch, its samples as long as they get.
            loss_fn: As for :meth:`update`.
            split: As for :meth:`update`.
            cache: As for :meth:`update`.

        Raises:
            UserError: The batch cannot be split, or the model cannot be run on one of several ranks alone.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(4, 1)
            >>> accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
            >>> size = accumulator.fitting_size(torch.randn(20, 4), lambda m, x: m(x).square().mean(), cache=False)
            >>> 1 <= size <= 20
            True
        """
        with nullcontext() if self._together is None else self._together.telling():
            samples = read_samples(batch, split)
            size = self._sizes.learned(samples, "auto", loss_fn, BySamples(), cache=cache).size
        return size if self._together is None else self._together.smallest(size)

    def _update(self, samples: Samples, loss_fn: LossFunction, size: Size, cutting: Cutting, *, cache: bool) -> Window:
        with nullcontext() if self._together is None else self._together.telling():
            learned = self._sizes.learned(samples, size, loss_fn, cutting, cache=cache)
            pieces = cutting.cut(samples, learned.begin())
            if size == "auto" and isinstance(cutting, BySamples) and len(pieces) > 1:  # as many, but even
                pieces = cutting.cut(samples, -(-samples.num_samples // len(pieces)))
        window = self._window_of(pieces)
        assert window is not None
        with window:
            make_recovery = partial(Recovery, window, lambda: Pieces([samples], pieces, cutting, learned))
            if needs_closure(self.optimizer):
                window._replay_with(loss_fn, make_recovery)
            else:
                if self._graphs is not None:
                    self._graphs.begin(window, loss_fn)
                make_recovery().run(loss_fn)
        learned.succeed()
        return window

    def _window_of(self, pieces: list[Samples]) -> Window | None:
        window = self._new_window([piece.micro_batch() for piece in pieces], self._weights.known_samples(pieces))
        if window is not None:
            window.sample_positions = [getattr(piece, "indices", None) for piece in pieces]
        return window

    def _new_window(self, micro_batches: list[Any], num_samples: Sequence[int] | None = None) -> Window | None:
        """A window of them; over several ranks an agreed one, or None where no rank has any."""
        if self._saved_window is not None:
            raise UserError("the loaded state has an open window, which comes before any other: take it from windows()")
        if self._together is None:
            return Window(self, micro_batches, num_samples)
        return self._together.window(self, micro_batches, num_samples)

    def on_update(self, hook: UpdateHook) -> UpdateHook:
        """Have ``hook(window)`` called after each update, once: EMA, target networks, logging. Works as a decorator.

        Skipped and void windows are no updates. An error in a hook is raised where the window closes; the update
        has happened by then.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(4, 1)
            >>> accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
            >>> losses = []
            >>> _ = accumulator.on_update(lambda window: losses.append(window.loss))
            >>> _ = accumulator.update(torch.zeros(8, 4), lambda m, x: 0 * m(x).mean(), micro_batch_size=2)
            >>> losses
            [0.0]
        """
        self._hooks.append(hook)
        return hook

    def update_coupled(
        self,
        batch: Any,
        encode: Encoder | Mapping[str, Encoder],
        loss_fn: CoupledLoss,
        *,
        micro_batch_size: MicroBatchSize,
    ) -> Window:
        """One exact update from a loss that couples the samples of the batch, such as a contrastive one.

        Two passes over the micro-batches (see :mod:`gradledger.engine.coupled`): representations without a graph, the
        loss of all of them, and each micro-batch again with the gradient of its representations. Random numbers and
        buffers are restored for the second pass, so dropout is as in the first.

        Args:
            batch: Tensors that share a leading dimension of samples, in any nesting; with several encoders a mapping
                with a part for each, whose parts may differ in size.
            encode: ``encode(model, micro_batch)`` gives representations, or a mapping of encoders by name.
            loss_fn: ``loss_fn(model, representations, batch)`` gives the loss over all of them, a scalar. Parameters
                that it uses (a temperature, a head) are trained too.
            micro_batch_size: Samples per micro-batch, or a mapping of them by the encoder's name.

        Returns:
            The closed window.

        Raises:
            UserError: The batch cannot be split, representations cannot be put together, or anything that
                :meth:`Window.backward` raises.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(4, 3)
            >>> accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
            >>> def info_nce(model, pair, batch):
            ...     return torch.nn.functional.cross_entropy(pair[0] @ pair[1].T, torch.arange(len(pair[0])))
            >>> batch = (torch.randn(20, 4), torch.randn(20, 4))
            >>> encode = lambda model, pair: (model(pair[0]), model(pair[1]))
            >>> update = accumulator.update_coupled(batch, encode, info_nce, micro_batch_size=8)
            >>> update.num_micro_batches, update.weight
            (3, 20.0)
        """
        if self._together is not None:
            raise UserError(
                "update_coupled is not exact over several ranks, whose samples it would not compare: gather "
                "the representations yourself, or train with one process"
            )
        return update_coupled(self, batch, encode, loss_fn, micro_batch_size=micro_batch_size)

    def schedule(self, metric: float | Tensor) -> None:
        """Advance a ``ReduceLROnPlateau`` by the metric that it watches, such as the validation loss.

        Raises:
            UserError: The scheduler is of another kind, or there is none.
        """
        schedule_on_metric(self.scheduler, metric)
        self.ledger.append(
            Schedule(
                **self._place(), lr=float(learning_rate_of(self.optimizer)), scheduler=type(self.scheduler).__name__
            )
        )

    @property
    def gradient_bytes(self) -> GradientBytes:
        """What the gradients of an open window take, where, and what the choices about them cost; reads well printed.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(100, 100).to(torch.bfloat16)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> print(Accumulator(model, optimizer, accumulate_dtype=torch.float32).gradient_bytes)
            gradients take 40.4 kB on the device, 20.2 kB of them for accumulate_dtype=
        """
        return gradient_bytes(
            self._account.parameters,
            accumulate_dtype=self._precision.accumulate_dtype,
            is_offloaded=self._account.host_gradients is not None,
            is_dropping=self._policy.non_finite == "drop-micro-batch",
        )

    @property
    def sync_cost(self) -> SyncCost | None:
        """When the ranks reduce gradients, and the memory and traffic it takes; reads well printed. None: one process.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(100, 100)
            >>> print(Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1)).sync_cost)
            None
        """
        return None if self._together is None else self._together.cost

    @property
    def num_carried(self) -> int:
        """Micro-batches that wait for the next pass under ``tail="carry"``."""
        return len(self._carried)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, except the model's own ``state_dict``.

        Counters, optimizer, scheduler, gradient scaler, the states of all random generators, and the micro-batches that
        wait under ``tail="carry"``. Inside an open window, after a micro-batch's last backward, also the window so far:
        its gradients, losses, weights and micro-batches, those still to come among them. Tensors are not copied: save
        them before training goes on. Sizes that ``update`` has measured are not part of it.

        Raises:
            UserError: The open window cannot be saved at this point: before the backward of its present micro-batch,
                while it is replayed, or while another account's window holds a shared gradient scaler back.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(4, 1)
            >>> accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
            >>> batches = iter([torch.randn(2, 4) for _ in range(4)])
            >>> with next(accumulator.windows(batches, steps=3)) as window:
            ...     for position, inputs in enumerate(window):
            ...         window.backward(model(inputs).square().mean())
            ...         if position == 1:
            ...             state = accumulator.state_dict()
            >>> len(state["window"]["micro_batches"]), state["window"]["position"]
            (3, 1)
        """
        return accumulator_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken; the random generators are set back as well.

        A pass over a loader that was under way goes on with the next call of :meth:`windows`. Its loader begins after
        the micro-batches that have been read, those of the open window among them. Its first window is the one that was
        open: its ``for`` loop begins after the micro-batch that was done with.

        Raises:
            UserError: It is not such a state, is of another version, or does not fit this accumulator.
        """
        load_accumulator_state(self, state)

    # What windows ask of their accumulator

    def _begin(self, window: Window) -> None:
        if self._open_window is not None:
            raise UserError("another window of this accumulator is open: close it before the next one opens")
        self._open_window = window
        if self._statistics is not None:
            self._statistics.begin()
        if self._checkpointing is not None:
            self._checkpointing.begin()

    def _end(self, window: Window) -> None:
        if self._open_window is window:
            self._open_window = None
            if self._checkpointing is not None:
                self._checkpointing.end()
            if self._compiled is not None:
                self._compiled.expect_nothing()
            if self._statistics is not None:
                self._statistics.end(commit=window._state == "closed" and not window.skipped)
        if len(self._seeds) > _MAX_SEEDS:
            self._seeds.clear()

    def _saving(self) -> AbstractContextManager[None]:
        """Checkpointing as in a window, outside of one."""
        return nullcontext() if self._checkpointing is None else self._checkpointing.active()

    def _stage(self, micro_batches: Sequence[Any]) -> Stage | None:
        """What hands out micro-batches where they are wanted; None where there is nothing to do."""
        if self._device is None and self._compiled is None:
            return None
        return Stage(micro_batches, self._device, None if self._compiled is None else self._compiled.expect)

    def _keeping(self, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Gradients kept as in a window, outside of one."""
        kept = self._account.host_gradients
        return nullcontext() if kept is None else kept.active(parameters)

    def _commit(self, window: Window, record: WindowRecord, replay: Replay | None) -> None:
        """Step, then count: an error before the step leaves every counter as it was."""
        record.clip = self._policy.clip
        record.has_scaler = self._precision.scaler is not None
        if window.skip_reason is not None:
            record.is_stepped = record.is_skipped = True
        else:
            apply_update(
                self._account,
                record,
                policy=self._policy,
                precision=self._precision,
                replay=replay,
            )
        self.num_micro_batches += window.num_micro_batches
        for unit, weight in window.weights.items():
            self.totals[unit] = self.totals.get(unit, 0.0) + weight
        try:
            if not record.is_skipped:
                self.num_updates += 1
                advance(self.scheduler, record)
        finally:
            self.ledger.append_block(record)

    def _announce(self, window: Window) -> None:
        for hook in self._hooks:
            hook(window)

    # Passes over a loader

    def _filling(self, steps: Steps | None, effective_batch_size: int | None) -> Callable[[], Filling]:
        if steps is not None:
            check_steps(steps, self.num_updates)
            wanted = steps
            return lambda: FixedSteps(check_steps(wanted, self.num_updates))
        size = effective_batch_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"effective_batch_size={size!r} must be a whole number of samples, at least 1")
        share = size if self._together is None else self._together.share_of(size)
        return lambda: FixedSamples(share)

    def _pass_over(
        self,
        loader: Iterable[Any],
        next_filling: Callable[[], Filling],
        tail: Tail,
        repartition: Repartition | None = None,
    ) -> Iterator[Window]:
        epoch, batches = self._num_epochs, self._begin_pass(loader)
        if self._saved_window is not None:
            saved, self._saved_window = self._saved_window, None
            yield Window.resumed(self, saved)
        groups: Iterator[list[Any]] = group(batches, next_filling, tail, self._carried)
        make: Callable[[list[Any]], Window | None] = self._new_window
        if repartition is not None:
            groups, make = map(repartition, groups), self._window_of
        if self._together is not None:
            yield from self._together.windows(groups, make)
        else:
            yield from (window for window in map(make, groups) if window is not None)
        self._num_epochs += 1
        self._progress = "none"
        self.ledger.append(EpochEnd(**self._place(), epoch=epoch))

    def _begin_pass(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's micro-batches, for a pass that begins or that goes on after its state was loaded."""
        if not self._goes_on:
            start = EpochStart(**self._place(), epoch=self._num_epochs, num_micro_batches=known_length(loader))
            self.ledger.append(start)
            self._progress = "reading"
            batches = iter(loader)
        elif self._progress == "read":  # only windows are left; a loader would begin its next epoch
            batches = iter(())
        else:
            present = generators_of(self)  # a loader draws a seed when it is iterated, as this pass has done before
            batches = iter(loader)
            present.restore()
        self._goes_on = False
        return self._read(batches)

    def _read(self, batches: Iterator[Any]) -> Iterator[Any]:
        yield from batches
        self._progress = "read"

    def _place(self) -> dict[str, Any]:
        """What an entry between windows carries."""
        rank = 0 if self._together is None else self._together.ranks.rank
        return {
            "rank": rank,
            "account": self._account.name,
            "micro_batch": self.num_micro_batches,
            "update": self.num_updates,
        }


def _check_type(name: str, value: Any, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        wanted = kinds.__name__ if isinstance(kinds, type) else " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{name} must be a torch {wanted}, not {type(value).__name__}")
