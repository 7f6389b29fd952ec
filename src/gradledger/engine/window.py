"""A window: the micro-batches of one update, as a transaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gradledger.engine.dropping import Survivors
from gradledger.engine.memory.recovering import Recovery, explain_out_of_memory, recovery_of_loader
from gradledger.engine.record import Term, WindowRecord, kept_loss, read_losses
from gradledger.engine.replaying import LossFunction, Replay, needs_closure
from gradledger.engine.shares import Shares
from gradledger.engine.state import restore_window
from gradledger.errors import UserError
from gradledger.ledger import Reduction

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator

_State = Literal["new", "open", "closed", "void"]


class Window:
    """The micro-batches of one update: all of them count, in one step, or none does.

    Made by :meth:`Accumulator.windows` and :meth:`Accumulator.update`. Use it once, as
    ``with window: for micro_batch in window: window.backward(loss)``. Leaving the block closes the window: the
    gradient is unscaled and clipped, the optimizer and the scheduler step, gradients are dropped. An exception in the
    block, or leaving it before the last micro-batch, makes the window void: nothing is stepped and no gradient is left.
    """

    __slots__ = (
        "_accumulator",
        "_autocast",
        "_is_iterated",
        "_is_regular",
        "_is_torn",
        "_loss",
        "_losses",
        "_micro_batches",
        "_plan",
        "_position",
        "_record",
        "_replay",
        "_saved",
        "_seeds",
        "_shares",
        "_state",
        "_survivors",
        "_terms",
        "num_dropped",
        "num_micro_batches",
        "sample_positions",
        "skip_reason",
    )
    _RECORD = WindowRecord

    def __init__(
        self, accumulator: Accumulator, micro_batches: list[Any], num_samples: Sequence[int] | None = None
    ) -> None:
        self._accumulator = accumulator
        self._micro_batches = micro_batches
        self._shares = Shares(accumulator._weights, micro_batches, num_samples)
        self._state: _State = "new"
        self._position = -1
        self._is_iterated = False
        self._saved: Mapping[str, Any] | None = None
        self._terms: list[Term] = []
        self._losses: list[float | Tensor] = []
        self._plan: list[tuple[Term, Tensor | None]] | None = None
        self._survivors: Survivors | None = None
        self._is_regular = True
        self._is_torn = False
        self._replay: Replay | None = None
        self._loss: float | None = None
        self.num_micro_batches = len(micro_batches)
        self.num_dropped = 0
        self.sample_positions: list[Sequence[int] | None] | None = None
        self.skip_reason: str | None = None

    @classmethod
    def resumed(cls, accumulator: Accumulator, state: Mapping[str, Any]) -> Window:
        """The window that was open when the accumulator's state was taken; entered, it goes on from there."""
        window = cls(accumulator, list(state["micro_batches"]), state["num_samples"])
        window.sample_positions = state["sample_positions"]
        window._saved = state
        return window

    # The transaction

    def __enter__(self) -> Window:
        if self._state != "new":
            raise UserError(f"this window is {self._state}: a window is used once, take the next one")
        accumulator = self._accumulator
        accumulator._begin(self)
        try:
            account = accumulator._account
            cleared = account.open()
            self._record = self._RECORD(
                account.name, accumulator.num_micro_batches, accumulator.num_updates, self._terms, self._losses, cleared
            )
            self._record.has_batch_norm = account.couples_samples
            precision = accumulator._precision
            precision.prepare(account.parameters)
            if accumulator._policy.non_finite == "drop-micro-batch":
                self._survivors = Survivors(account, by_loss_only=precision.scaler is not None)
            # A gradient scaler's factor is frozen while a window is open, so its seeds live as long as the window.
            self._seeds: dict[Any, Tensor] = accumulator._seeds if precision.scaler is None else {}
            self._autocast = precision.autocast()
            if self._autocast is not None:
                self._autocast.__enter__()
        except BaseException:
            accumulator._end(self)
            raise
        precision.open()
        self._state = "open"
        if self._saved is not None:
            restore_window(self, self._saved)
            self._saved = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(kind, error, trace)
        try:
            if kind is not None or self._position + 1 < self.num_micro_batches:
                self._void()
                if error is not None:
                    explain_out_of_memory(self, error)
            else:
                self._close()
        except BaseException as failure:
            self._void()
            explain_out_of_memory(self, failure, is_closing=True)
            raise
        finally:
            self._plan = None
            self._replay = None
            self._micro_batches.clear()
            precision = self._accumulator._precision
            precision.release(self._accumulator._account.parameters)
            precision.close()
            self._accumulator._end(self)
        if self._state == "closed" and not self.skipped:
            self._accumulator._announce(self)

    def __iter__(self) -> Iterator[Any]:
        if self._state == "new":
            raise UserError(
                "a window is iterated inside its own with block: write `with window: for micro_batch in window: ...`"
            )
        if self._state != "open":
            raise UserError(f"this window is {self._state}: a window is used once, take the next one")
        if self._is_iterated:
            raise UserError("this window is being iterated already: each micro-batch is seen once, keep what you need")
        self._is_iterated = True
        return self._visit()

    def _visit(self) -> Iterator[Any]:
        stage = self._accumulator._stage(self._micro_batches)
        for position in range(self._position + 1, self.num_micro_batches):
            self._advance(position)
            yield self._micro_batches[position] if stage is None else stage.take(position)

    def _advance(self, position: int) -> None:
        if self._survivors is not None:
            self._settle()
        if len(self._terms) != position:  # a micro-batch had no backward, or more than one
            self._is_regular = False
        self._position = position

    def _settle(self) -> None:
        """Decide whether the micro-batch that ends here is left out."""
        assert self._survivors is not None
        self._accumulator._account.check_untouched()
        of_this = [at for at, term in enumerate(self._terms) if term.position == self._position]
        # A coefficient on a device is not looked at: where it is 0, leaving the micro-batch out changes nothing.
        counting = [at for at in of_this if isinstance(c := self._terms[at].coefficient, Tensor) or c != 0]
        self._survivors.settle(self._position, [self._losses[at] for at in counting])

    def replay(self, loss_fn: LossFunction) -> None:
        """Run all micro-batches, now and as often as the optimizer asks for at the close (L-BFGS, SAM).

        Use it in place of iterating the window. Every run sees the same random numbers.

        Args:
            loss_fn: ``loss_fn(model, micro_batch)`` gives the mean loss of a micro-batch, a scalar.

        Raises:
            UserError: The window is iterated already, uses a gradient scaler, or anything :meth:`backward` raises.
        """
        self._replay_with(loss_fn, lambda: recovery_of_loader(self))
        self._accumulator._sizes.of_replays.succeed()

    def _replay_with(self, loss_fn: LossFunction, make_recovery: Callable[[], Recovery]) -> None:
        if self._accumulator._precision.scaler is not None:
            raise UserError("a window cannot be replayed under precision='16-mixed': a gradient scaler steps only once")
        iter(self)  # its checks
        self._replay = Replay(self, loss_fn, make_recovery())
        self._replay.run()

    def _rewind(self) -> None:
        """Back to before the first micro-batch: no gradient, no loss."""
        account, precision = self._accumulator._account, self._accumulator._precision
        account.clear_gradients()
        account.unwatch()
        precision.prepare(account.parameters)
        if self._survivors is not None:
            self._survivors = Survivors(account, by_loss_only=precision.scaler is not None)
        self._position = -1
        self._is_iterated = False
        self._is_regular, self._is_torn = True, False
        self._terms.clear()
        self._losses.clear()

    def _can_shrink(self, *, in_forward: bool) -> bool:
        """Whether the present micro-batch may be run again in smaller ones."""
        return True

    def _can_restart(self) -> bool:
        """Whether the whole window may be run again."""
        return True

    def _repartition(self, micro_batches: list[Any], num_samples: Sequence[int] | None) -> None:
        """The same samples in other micro-batches. Terms stay: their shares are of the same total."""
        self._micro_batches[:] = micro_batches
        self._shares = Shares(self._accumulator._weights, self._micro_batches, num_samples)
        self._plan = None
        self.num_micro_batches = len(micro_batches)

    # Backward

    def backward(
        self,
        loss: Tensor,
        *,
        weight: float | Tensor | None = None,
        per: str | None = None,
        reduction: Reduction = "mean",
        retain_graph: bool = False,
    ) -> None:
        """Add the gradient of a loss to the window, by its share of the whole effective batch.

        Args:
            loss: A scalar: the mean (or sum) over the units of the current micro-batch.
            weight: The units that the loss is over, where it is known only now. All backwards of a window say it, or
                none does.
            per: The unit, where a micro-batch has several terms with denominators of their own. ``"micro-batch"``
                counts each micro-batch as 1; ``"window"`` adds the term as it is: call it once in the window.
            reduction: Whether ``loss`` is the mean or the sum over its units.
            retain_graph: Another term of this micro-batch goes back through the same forward.

        Raises:
            UserError: The window is not open or not being iterated, the loss is no scalar or needs no gradient, the
                weights are mixed or not finite, or somebody else touched the gradients.
        """
        plan = self._plan
        if plan is None or weight is not None or per is not None or reduction != "mean":
            term, seed = self._term(loss, weight, per, reduction)
        else:  # the usual loop: everything was counted by the window's first backward
            term, seed = plan[self._position]
        account = self._accumulator._account
        account.check_untouched()
        if seed is not None:
            try:
                self._add_gradient(loss, seed, retain_graph)
            except BaseException as error:
                if isinstance(error, RuntimeError | TypeError):
                    _check_loss(loss)
                self._is_torn = True
                raise
            account.watch()
        self._terms.append(term)
        self._losses.append(kept_loss(loss))

    def _term(
        self, loss: Tensor, weight: float | Tensor | None, per: str | None, reduction: Reduction
    ) -> tuple[Term, Tensor | None]:
        """The loss's term and the gradient that its backward starts from (None: it contributes nothing)."""
        if self._state != "open":
            raise UserError(
                f"window.backward was called outside the window, which is {self._state}: call it inside `with window:`"
            )
        if self._position < 0:
            raise UserError(
                "window.backward was called before the window's first micro-batch: iterate it, "
                "`for micro_batch in window: ...`"
            )
        _check_loss(loss)
        self._accumulator._account.decide_fence(loss)
        if not self._terms and weight is None and per is None and reduction == "mean":
            self._plan = self._plan_of(loss)
            return self._plan[self._position]
        term = self._shares.share(self._position, self._terms, weight, per, reduction)
        return term, self._seed(loss, term.coefficient)

    def _plan_of(self, loss: Tensor) -> list[tuple[Term, Tensor | None]]:
        """What each micro-batch's backward will need if it is one plain loss, as in most loops."""
        plan: list[tuple[Term, Tensor | None]] = []
        seed: Tensor | None = None
        coefficient: float | Tensor = 0.0
        for position in range(self.num_micro_batches):
            term = self._shares.share(position, (), None, None, "mean")
            if term.coefficient != coefficient:
                coefficient = term.coefficient
                seed = self._seed(loss, coefficient)
            plan.append((term, seed))
        return plan

    def _seed(self, loss: Tensor, coefficient: float | Tensor) -> Tensor | None:
        """The coefficient as the gradient that backward starts from: no operation is added to the graph."""
        scaler = self._accumulator._precision.scaler
        if isinstance(coefficient, Tensor):
            seed = coefficient.to(loss.dtype).reshape(loss.shape)
            return seed if scaler is None else scaler.scale(seed)
        if coefficient == 0.0:
            return None
        key = (coefficient, loss.dtype, loss.device, loss.shape)
        seed = self._seeds.get(key)  # type: ignore[assignment]  # None is made good below
        if seed is None:
            seed = torch.full(loss.shape, coefficient, dtype=loss.dtype, device=loss.device)
            self._seeds[key] = seed = seed if scaler is None else scaler.scale(seed)
        return seed

    def _add_gradient(self, loss: Tensor, seed: Tensor, retain_graph: bool) -> None:
        if self._autocast is None:
            torch.autograd.backward(loss, seed, retain_graph, inputs=self._accumulator._account.fence)
        else:
            with torch.autocast(self._accumulator._precision.device_type, enabled=False):
                torch.autograd.backward(loss, seed, retain_graph, inputs=self._accumulator._account.fence)

    # Closing

    def _close(self) -> None:
        if not self._terms:
            raise UserError(
                f"the window closes with {self.num_micro_batches} micro-batches and no backward: call "
                "window.backward(loss) for each, or leave the window out"
            )
        if self._is_torn:
            raise UserError(
                "a backward of this window failed half-way and its error was caught inside the window, so a part of a "
                "gradient is left in it: let the error leave the `with window:` block, or skip the batch before its "
                "backward"
            )
        accumulator, record = self._accumulator, self._record
        account = accumulator._account
        if self._replay is None and needs_closure(accumulator.optimizer):
            raise UserError(
                f"{type(accumulator.optimizer).__name__} evaluates the loss again while it steps: call "
                "window.replay(loss_fn) instead of iterating the window, or accumulator.update(batch, loss_fn)"
            )
        self._settle_all()
        account.check_untouched(may_be_changed=True)
        account.check_owned()
        record.factor = self._factor()
        if self._shares.left_out.issuperset(term.position for term in self._terms):
            self.skip_reason = "no micro-batch of the window was finite"
        elif self._shares.is_weightless(self._terms):
            self.skip_reason = "the total weight of the window is 0"
        elif not account.gradients():
            raise UserError(
                "no parameter of the optimizer received a gradient in this window: the loss does not depend on them"
            )
        accumulator._commit(self, record, self._replay)
        if record.is_skipped and self.skip_reason is None:
            self.skip_reason = "the gradient was not finite"
        account.close()
        self._state = "closed"

    def _settle_all(self) -> None:
        """Have the window's gradient beside the parameters; micro-batches that were not finite count nothing."""
        self._accumulator._account.bring_back()
        if self._survivors is None:
            return
        self._settle()
        positions = self._survivors.finish()
        for at, term in enumerate(self._terms):
            if term.position in positions:
                self._terms[at] = term._replace(coefficient=0.0, weight=0.0)
        self.num_dropped = len(positions)
        self._shares.leave_out(positions)
        if positions:
            self._plan = None

    def _factor(self) -> float | None:
        """What the summed gradients must still be multiplied by; None for 1."""
        if self._plan is not None and self._is_regular and len(self._terms) == self.num_micro_batches:
            return None
        return self._shares.closing_factor(self._terms)

    def _void(self) -> None:
        if self._state in ("closed", "void"):
            return
        self._accumulator._account.close()
        record = self._record
        if record.is_stepped:  # the update was made; only what came after it failed
            self._state = "closed"
            return
        self._state = "void"
        record.is_void, record.is_skipped = True, False
        self._accumulator.ledger.append_block(record)

    # What it came to

    def in_order(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the micro-batches as one row per sample, in the order that the samples were given in.

        Args:
            outputs: One tensor per micro-batch, its first dimension that of the samples.

        Raises:
            UserError: The outputs do not match the micro-batches.
        """
        rows = [row for output in outputs for row in output]
        positions = [at for each in self.sample_positions or () for at in each or ()] or list(range(len(rows)))
        if len(rows) != len(positions):
            raise UserError(f"the outputs have {len(rows)} rows, but the window {len(positions)} samples")
        return [row for _, row in sorted(zip(positions, rows, strict=True), key=lambda pair: pair[0])]

    @property
    def loss(self) -> float:
        """The loss of the effective batch: the weighted mean over its units, all terms added. Read lazily."""
        if self._loss is not None:
            return self._loss
        if self._state == "new":
            return math.nan
        loss = self._present_loss()
        if self._state == "closed":
            self._loss = loss
        return loss

    def _present_loss(self) -> float:
        factor = self._record.factor if self._state == "closed" else self._shares.closing_factor(self._terms)
        return (1.0 if factor is None else float(factor)) * math.fsum(
            float(term.coefficient) * value
            for term, value in zip(self._terms, read_losses(self._losses), strict=True)
            if float(term.coefficient) != 0.0
        )

    @property
    def grad_norm(self) -> float | None:
        """The gradient's total 2-norm before clipping; None where the window has not closed, or changed nothing."""
        norm = self._record.norm if self._state == "closed" else None
        return None if norm is None else float(norm)

    @property
    def weight(self) -> float:
        """The total weight of the micro-batches that took part, in the accumulator's (first) unit."""
        return self._shares.total(self._terms)

    @property
    def weights(self) -> dict[str, float]:
        """The total weight in each unit that was used."""
        return self._shares.totals(self._terms)

    @property
    def is_padding(self) -> bool:
        """Whether the present micro-batch repeats an earlier one and counts nothing; only over several ranks."""
        return False

    @property
    def skipped(self) -> bool:
        """Whether the window closed without an update; :attr:`skip_reason` says why."""
        return self._state == "closed" and self._record.is_skipped

    @property
    def voided(self) -> bool:
        """Whether the window was given up."""
        return self._state == "void"

    def __repr__(self) -> str:
        return f"Window({self._state}, {self.num_micro_batches} micro-batches)"


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UserError(f"window.backward takes a scalar loss, not {shape}: reduce it with .mean() or .sum() first")
    if not loss.requires_grad:
        raise UserError(
            "the loss needs no gradient: it was computed under torch.no_grad(), detached, or from no parameter that "
            "requires one"
        )
