"""A window over several ranks: the same transaction on all of them, its gradients reduced once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gradledger.engine.closing import NonFiniteError
from gradledger.engine.parallel.divergence import NUM_MARKS, RankComparison
from gradledger.engine.parallel.ranks import Ranks, is_lost, left_by_another, unreachable
from gradledger.engine.parallel.record import RankRecord
from gradledger.engine.parallel.shares import RankShares
from gradledger.engine.parallel.wrappers import Wrapper
from gradledger.engine.record import Term, read_losses
from gradledger.engine.replaying import LossFunction
from gradledger.engine.window import Window, _check_loss
from gradledger.errors import UserError
from gradledger.ledger import Reduction

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator

_Meeting = Literal["ahead", "missed", "over"]
"""Whether an error can still be told to the others when all meet next: not while they wait for gradients."""


class _LeftEarlyError(Exception):
    """A rank gave its window up without an error: the others end their loops over it as well."""


class RankWindow(Window):
    """The micro-batches that one rank contributes to an update of all ranks.

    Args:
        accumulator: Whose window it is.
        micro_batches: This rank's, with repeated ones at the end where it has too few.
        shares: Their part of the whole.
        ranks: How the ranks agree.
        wrapper: What reduces the gradients.
        num_own: How many micro-batches are no repeats.
        synced: The micro-batches whose backward reduces.
        comparison: Whether the ranks' gradients are the same.
    """

    __slots__ = (
        "_comparison",
        "_error",
        "_global_shares",
        "_has_reduced",
        "_meeting",
        "_num_backwards",
        "_num_own",
        "_pending",
        "_ranks",
        "_synced",
        "_wrapper",
    )
    _RECORD = RankRecord

    def __init__(
        self,
        accumulator: Accumulator,
        micro_batches: list[Any],
        shares: RankShares,
        ranks: Ranks,
        wrapper: Wrapper,
        *,
        num_own: int,
        synced: frozenset[int],
        comparison: RankComparison,
    ) -> None:
        super().__init__(accumulator, micro_batches)
        self._shares = self._global_shares = shares
        self._ranks = ranks
        self._wrapper = wrapper
        self._num_own = num_own
        self._synced = synced
        self._comparison = comparison
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._num_backwards = 0
        self._meeting: _Meeting = "ahead"
        self._has_reduced = False
        self._error: BaseException | None = None

    @property
    def is_padding(self) -> bool:
        """Whether the present micro-batch is a repeat, which counts nothing: leave it out of your own counts."""
        return self._position >= self._num_own

    # The transaction

    def __enter__(self) -> Window:
        super().__enter__()
        assert isinstance(self._record, RankRecord)
        self._record.rank, self._record.parts = self._ranks.rank, {}
        self._wrapper.hold()
        self._wrapper.watch(on=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = error
        try:
            super().__exit__(kind, error, trace)
            if is_lost(error):
                assert error is not None
                raise unreachable("reduction", error) from error
        except BaseException as raised:
            if self._state == "closed":  # by a hook, after an update that all ranks made
                self._ranks.fail(raised)
            if is_lost(raised):
                raise unreachable("reduction", raised) from raised
            raise
        finally:
            self._error = None
            self._pending.clear()
            self._wrapper.watch(on=False)
            self._wrapper.end_window()

    def _visit(self) -> Iterator[Any]:
        try:
            yield from super()._visit()
        except _LeftEarlyError:
            return

    def _advance(self, position: int) -> None:
        self._finish_micro_batch()
        if self._communicates_at(position):
            self._meet()
        self._wrapper.release() if position in self._synced else self._wrapper.hold()
        super()._advance(position)
        self._num_backwards = 0
        self._wrapper.take_outputs()

    def _meet(self) -> None:
        """Communication cannot be left once it has begun, so all ranks first say that they will take part."""
        if self._meeting == "missed":  # they have, and this rank's micro-batch was cut since
            return
        self._meeting = "missed"
        if self._ranks.agree("next reduction") is None:
            self._meeting = "over"
            raise _LeftEarlyError

    # Running out of memory

    def _can_shrink(self, *, in_forward: bool) -> bool:
        """What the others do not wait for is this rank's own affair, and so is a forward before a reduction."""
        if self._wrapper.is_aligned or self._wrapper.begins_synced:
            return False
        return in_forward or not self._communicates_at(self._position)

    def _can_restart(self) -> bool:
        return not self._has_reduced

    def _rewind(self) -> None:
        super()._rewind()
        self._pending.clear()
        self._num_backwards = 0

    def _repartition(self, micro_batches: list[Any], num_samples: Sequence[int] | None) -> None:
        """Other micro-batches of this rank's samples; repeats stay, and as many reductions as the others expect."""
        repeats = [micro_batches[-1]] * (self.num_micro_batches - self._num_own)
        grown = len(micro_batches) - self._num_own
        self._synced = frozenset(at if at < self._position else at + grown for at in self._synced)
        self._num_own = len(micro_batches)
        super()._repartition([*micro_batches, *repeats], num_samples)
        self._shares = self._global_shares = self._global_shares.of_others(
            self._micro_batches, self._num_own, num_samples
        )
        self._wrapper.abandon()

    def replay(self, loss_fn: LossFunction) -> None:
        """Not over several ranks.

        Raises:
            UserError: Always.
        """
        raise UserError("a window over several ranks cannot be replayed: use an optimizer that steps once per gradient")

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
        """Add the gradient of a loss to the window; see :meth:`gradledger.Window.backward`."""
        super().backward(loss, weight=weight, per=per, reduction=reduction, retain_graph=retain_graph)
        coefficient = self._terms[-1].coefficient
        if not isinstance(coefficient, Tensor) and coefficient == 0.0 and self._communicates_at(self._position):
            _check_loss(loss)
            self._add_gradient(loss, torch.zeros_like(loss), retain_graph)
        self._num_backwards += 1

    def _communicates_at(self, position: int) -> bool:
        """Whether the other ranks wait for this micro-batch's forward or backward."""
        return self._wrapper.is_aligned or position in self._synced

    def _seed(self, loss: Tensor, coefficient: float | Tensor) -> Tensor | None:
        return super()._seed(loss, coefficient * self._wrapper.divisor)

    def _add_gradient(self, loss: Tensor, seed: Tensor, retain_graph: bool) -> None:
        """Where others wait, the terms of a micro-batch go back together: wrappers reduce once per forward."""
        if not self._communicates_at(self._position):
            super()._add_gradient(loss, seed, retain_graph)
            return
        self._pending.append((loss, seed))
        if not retain_graph:
            self._send_pending()

    def _send_pending(self) -> None:
        losses, seeds = zip(*self._pending, strict=True)
        self._pending.clear()
        if not self._wrapper.take_outputs():
            raise UserError(
                "the loss was not computed through the model that reduces gradients over ranks "
                "(DistributedDataParallel or fully_shard) since the last backward: call that model, not the module "
                "inside it, and where several losses come from it, add them, or give all but the last retain_graph=True"
            )
        if all(not seed.any() for seed in seeds):
            with self._wrapper.silenced():
                self._run_backward(losses, seeds)
        else:
            self._run_backward(losses, seeds)

    def _run_backward(self, losses: Any, seeds: Any) -> None:
        account, precision = self._accumulator._account, self._accumulator._precision
        self._has_reduced = True
        with torch.autocast(precision.device_type, enabled=False):
            torch.autograd.backward(losses, seeds, inputs=account.fence)
        self._wrapper.has_reduced()
        self._meeting = "ahead"

    def _finish_micro_batch(self) -> None:
        """Where others wait for a micro-batch that had no backward here, take part with nothing."""
        if self._position < 0 or not self._communicates_at(self._position):
            return
        if self._pending:
            self._send_pending()
            self._accumulator._account.watch()
        elif self._num_backwards == 0:
            outputs = self._wrapper.take_outputs()
            if not outputs:
                raise UserError(
                    f"micro-batch {self._position} of the window had no forward through the model on "
                    f"rank {self._ranks.rank}, while other ranks wait to reduce its gradients: run the forward on "
                    "every rank, and leave out only the backward"
                )
            with self._wrapper.silenced():
                self._run_backward(outputs, [torch.zeros_like(output) for output in outputs])

    # Closing

    def _close(self) -> None:
        try:
            self._finish_micro_batch()
            account = self._accumulator._account
            account.check_untouched(may_be_changed=True)
            account.check_owned()
            self._settle_with_others()
            self._plan = None  # the factor of the close is the ranks' common one
            super()._close()
        except BaseException as error:
            self._error = error
            raise

    def _settle_with_others(self) -> None:
        """The totals, the loss and the health of all ranks; what they decide from it is the same on each."""
        units = list(self._accumulator._weights.units)
        own = self._global_shares.own_totals(self._terms)
        used = [own.get(unit, math.nan) for unit in units]
        losses = [
            (term, value)
            for term, value in zip(self._terms, read_losses(self._losses), strict=True)
            if float(term.coefficient) != 0.0
        ]
        loss = math.fsum(float(term.coefficient) * value for term, value in losses)
        not_finite = next((term.position for term, value in losses if not math.isfinite(value)), -1)
        self._meeting = "over"
        marks = self._comparison.marks(self._wrapper.reduced(), self._accumulator.num_updates)
        rows = self._ranks.agree("close", [loss, float(not_finite), *marks, *used])
        if rows is None:
            raise left_by_another()
        self._check_together(rows)
        totals = {}
        for at, unit in enumerate(units, start=2 + NUM_MARKS):
            present = [row[at] for row in rows if not math.isnan(row[at])]
            if present:
                totals[unit] = math.fsum(present)
        self._global_shares.settle(totals)
        factor = self._global_shares.closing_factor(self._terms)
        self._loss = (1.0 if factor is None else factor) * math.fsum(row[0] for row in rows)
        record = self._record
        assert isinstance(record, RankRecord)
        record.synced = self._synced
        record.parts = {unit: own.get(unit, 0.0) / total for unit, total in totals.items() if total > 0}
        if not self._terms:  # nothing but a place in the reduction
            self._terms.append(Term(self._position, 0.0, units[0], 0.0, "mean"))
            self._losses.append(0.0)

    def _check_together(self, rows: list[list[float]]) -> None:
        self._comparison.check([row[2 : 2 + NUM_MARKS] for row in rows], self._ranks.name)
        if self._accumulator._policy.non_finite != "raise":
            return
        for at, row in enumerate(rows):
            if row[1] >= 0:
                raise NonFiniteError(
                    f"on {self._ranks.name(at)} the loss of micro-batch {row[1]:.0f} of the window is not finite: look "
                    "at that micro-batch, or choose non_finite='skip-update'"
                )

    def _void(self) -> None:
        meeting, self._meeting = self._meeting, "over"
        super()._void()
        if self._state != "void":
            return
        self._wrapper.abandon()
        error = self._error
        if isinstance(error, GeneratorExit):  # a generator around the window was closed: the window is left
            error = None
        if error is not None:
            if meeting == "missed" or is_lost(error):
                self._ranks.keep_quiet(error)  # the others are inside a collective and cannot hear it, or gone
            self._ranks.fail(error)
        elif meeting == "ahead":
            self._ranks.agree("next reduction", leaving=True)
        elif meeting == "missed":
            raise UserError(
                f"rank {self._ranks.rank} left its window in micro-batch {self._position}, for which other ranks wait: "
                "leave a window on all ranks after the same micro-batch's backward"
            )
