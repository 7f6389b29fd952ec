"""Coupled losses (contrastive, in-batch negatives): one exact update in two passes over the micro-batches.

A loss that compares the samples of a batch with each other is no mean over samples, so its gradient is no weighted sum
of the micro-batches' gradients. It does depend on the parameters through each sample's representation alone, and so

    1. every micro-batch is encoded without a graph, which keeps its representations only;
    2. the loss of all representations together gives the gradient of each of them;
    3. every micro-batch is encoded again, with the same random numbers and buffers, and its part of that gradient is
       sent back through it.

The method is GradCache (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
The last micro-batch keeps its graph from the first pass and is not encoded again.

Where memory runs out, the window begins anew with smaller micro-batches of the encoder that it ran out in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import map_tensors, tensor_leaves, to_device
from gradledger.engine.batches.splitting import Samples, check_size, read_samples
from gradledger.engine.memory.limits import is_out_of_memory, release
from gradledger.engine.memory.recovering import Beginning
from gradledger.engine.record import kept_loss
from gradledger.engine.rewinding import BufferHistory, BufferValues, Generators
from gradledger.engine.weights import PER_MICRO_BATCH
from gradledger.engine.window import Window, _check_loss
from gradledger.errors import UserError

if TYPE_CHECKING:
    from gradledger.engine.accumulator import Accumulator

Encoder = Callable[[nn.Module, Any], Any]
"""``encode(model, micro_batch)`` gives the representations of a micro-batch: tensors, in any nesting."""

CoupledLoss = Callable[[nn.Module, Any, Any], Tensor]
"""``loss_fn(model, representations, batch)`` gives the loss of the whole batch, a scalar."""

MicroBatchSize = int | Mapping[str, int]


class _Encoder(NamedTuple):
    """An encoder and the samples that it is for."""

    name: str
    encode: Encoder
    samples: Samples
    size: int


@dataclass(slots=True)
class _Part:
    """One micro-batch for one encoder."""

    encoder: str
    encode: Encoder
    micro_batch: Any
    num_samples: int
    output: Any = None
    leaves: list[Tensor] = field(default_factory=list)
    generators: Generators | None = None
    buffers: BufferValues = field(default_factory=dict)

    def forget(self) -> None:
        """Let its representations and its graph go."""
        self.output, self.leaves = None, []


def update_coupled(
    accumulator: Accumulator,
    batch: Any,
    encode: Encoder | Mapping[str, Encoder],
    loss_fn: CoupledLoss,
    *,
    micro_batch_size: MicroBatchSize,
) -> Window:
    """One update of an accumulator from a loss that couples the samples of the batch.

    See :meth:`gradledger.Accumulator.update_coupled`, which calls this.
    """
    if accumulator._policy.non_finite == "drop-micro-batch":
        raise UserError(
            "non_finite='drop-micro-batch' cannot hold for a coupled loss, in which every sample meets every other: "
            "use 'raise' or 'skip-update'"
        )
    encoders = _encoders(batch, encode, micro_batch_size)
    sizes = {one.name: accumulator._sizes.given((one.name, one.samples.signature()), one.size) for one in encoders}
    parts = _split(encoders, {name: size.begin() for name, size in sizes.items()})
    window = Window(accumulator, [part.micro_batch for part in parts])
    with window:
        beginning = Beginning(window, only_torch=False)
        while True:
            passes = _TwoPasses(window, parts, batch, loss_fn, is_mapping=isinstance(encode, Mapping))
            failure = passes.attempt()
            if failure is None:
                break
            release(failure, beginning.device)
            if passes.current.num_samples == 1:
                raise beginning.one_sample_does_not_fit(failure) from None
            sizes[passes.current.encoder].lower(-(-passes.current.num_samples // 2))
            parts = _split(encoders, {name: size.size for name, size in sizes.items()})
            beginning.go_back()
            window._repartition([part.micro_batch for part in parts], None)
    for size in sizes.values():
        size.succeed()
    return window


def _encoders(batch: Any, encode: Encoder | Mapping[str, Encoder], size: MicroBatchSize) -> list[_Encoder]:
    if not isinstance(encode, Mapping):
        if isinstance(size, Mapping):
            raise UserError("micro_batch_size is a mapping, so encode must be one too, with the same names")
        return [_Encoder("", encode, read_samples(batch), check_size(size))]
    if not isinstance(batch, Mapping) or not encode or set(encode) - set(batch):
        raise UserError(
            f"encode names the encoders {', '.join(encode) or '(none)'}, so the batch must be a mapping that has a "
            f"part for each, not {', '.join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__}"
        )
    found = []
    for name, function in encode.items():
        if isinstance(size, Mapping) and name not in size:
            raise UserError(f"micro_batch_size names {', '.join(size)}, but not the encoder {name!r}")
        own_size = size[name] if isinstance(size, Mapping) else size
        found.append(_Encoder(name, function, read_samples(batch[name]), check_size(own_size)))
    return found


def _split(encoders: list[_Encoder], sizes: Mapping[str, int]) -> list[_Part]:
    return [
        _Part(each.name, each.encode, piece.micro_batch(), piece.num_samples)
        for each in encoders
        for piece in each.samples.cut(sizes[each.name])
    ]


class _TwoPasses:
    """The two passes of a window.

    Args:
        window: The open window, at its beginning.
        parts: Its micro-batches.
        batch: The whole batch.
        loss_fn: The loss of all representations.
        is_mapping: There are several encoders, by name.
    """

    def __init__(
        self, window: Window, parts: list[_Part], batch: Any, loss_fn: CoupledLoss, *, is_mapping: bool
    ) -> None:
        self._window = window
        self._parts = parts
        self._batch = batch
        self._loss_fn = loss_fn
        self._is_mapping = is_mapping
        self._devices = {parameter.device for parameter in window._accumulator._account.parameters}
        self._history = BufferHistory(window._accumulator.model)
        self.current = parts[0]

    def attempt(self) -> Exception | None:
        """Make both passes. Returns the error where memory ran out, in the part that is :attr:`current`."""
        try:
            self._encode_all()
            end = self._send_back_loss()
            self._encode_again_and_send_back()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            for part in self._parts:
                part.forget()
            return error
        end[0].restore()
        self._history.restore(end[1])
        return None

    def _encode_all(self) -> None:
        """The first pass; only the last micro-batch keeps its graph."""
        model = self._window._accumulator.model
        for part, micro_batch in zip(self._parts, self._window, strict=True):
            self.current = part
            part.generators, part.buffers = Generators(self._devices), self._history.take()
            if part is self._parts[-1]:  # casts of parameters made without a graph must not serve it, nor the replays
                torch.clear_autocast_cache()
            with torch.no_grad() if part is not self._parts[-1] else nullcontext():
                part.output = part.encode(model, micro_batch)
        for part in self._parts:
            _cut_from_graph(part)

    def _send_back_loss(self) -> tuple[Generators, BufferValues]:
        """The loss, its gradient in the representations, and the state that the model is left in by the first pass."""
        window, accumulator = self._window, self._window._accumulator
        grouped = {
            name: _joined([p for p in self._parts if p.encoder == name])
            for name in dict.fromkeys(p.encoder for p in self._parts)
        }
        whole = self._batch if accumulator._device is None else to_device(self._batch, accumulator._device)
        loss = self._loss_fn(accumulator.model, grouped if self._is_mapping else grouped[""], whole)
        _check_loss(loss)
        _backward(window, [loss], [window._seed(loss, 1.0)], [leaf for part in self._parts for leaf in part.leaves])
        _write_down(window, loss, per=None if accumulator._weights.counts_samples else PER_MICRO_BATCH)
        return Generators(self._devices), self._history.take()

    def _encode_again_and_send_back(self) -> None:
        """The second pass."""
        window = self._window
        _send_back(window, self._parts[-1])
        statistics = window._accumulator._statistics
        with nullcontext() if statistics is None else statistics.held():
            for part in self._parts[:-1]:
                self.current = part
                if any(leaf.grad is not None for leaf in part.leaves):
                    _encode_again(window, part, self._history)
                    _send_back(window, part)


def _cut_from_graph(part: _Part) -> None:
    """Make the part's floating-point outputs leaves, which collect the gradient that its replay starts from."""
    found = [(path, leaf) for path, leaf in tensor_leaves(part.output, "encode(...)") if leaf.is_floating_point()]
    if not found:
        raise UserError(
            f"encode returned no floating-point tensor but a {type(part.output).__name__}: it must return the "
            "representations of the micro-batch"
        )
    for path, leaf in found:
        if leaf.dim() == 0:
            raise UserError(
                f"{path} has no leading dimension of samples, so it cannot be put together over micro-batches: "
                "compute it in loss_fn, which gets the model"
            )
    part.leaves = [leaf.detach().requires_grad_() for _, leaf in found]


def _joined(parts: list[_Part]) -> Any:
    """The representations of one encoder's whole batch, in the nesting that it returned."""
    columns = [list(_leaves_in_place(part)) for part in parts]
    if len({len(column) for column in columns}) > 1:
        raise UserError("encode returned unlike numbers of tensors for two micro-batches: it must always be the same")
    joined = iter([torch.cat(row) for row in zip(*columns, strict=True)])
    return map_tensors(parts[0].output, lambda _: next(joined))


def _leaves_in_place(part: _Part) -> Iterator[Tensor]:
    leaves = iter(part.leaves)
    for _, tensor in tensor_leaves(part.output):
        yield next(leaves) if tensor.is_floating_point() else tensor


def _encode_again(window: Window, part: _Part, history: BufferHistory) -> None:
    assert part.generators is not None
    part.generators.restore()
    history.restore(part.buffers)
    stage = window._accumulator._stage([part.micro_batch])
    micro_batch = part.micro_batch if stage is None else stage.take(0)
    part.output = part.encode(window._accumulator.model, micro_batch)


def _send_back(window: Window, part: _Part) -> None:
    """Send the gradient of a part's representations back through its encoder, and let its graph go."""
    tensors = [tensor for _, tensor in tensor_leaves(part.output) if tensor.is_floating_point()]
    pairs = [
        (tensor, leaf.grad)
        for tensor, leaf in zip(tensors, part.leaves, strict=True)
        if tensor.requires_grad and leaf.grad is not None
    ]
    if pairs:
        _backward(window, [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
    part.forget()


def _backward(
    window: Window, tensors: list[Tensor], gradients: list[Tensor | None], leaves: list[Tensor] | None = None
) -> None:
    accumulator = window._accumulator
    account = accumulator._account
    account.check_untouched()
    account.decide_fence(tensors[0])
    fence = account.fence
    inputs = fence if fence is None or leaves is None else [*fence, *leaves]
    plain: AbstractContextManager[Any] = nullcontext()
    if window._autocast is not None:
        plain = torch.autocast(accumulator._precision.device_type, enabled=False)
    with plain:
        torch.autograd.backward(tensors, gradients, inputs=inputs)
    account.watch()


def _write_down(window: Window, loss: Tensor, per: str | None) -> None:
    """Each micro-batch takes part in the one loss by its share of the samples."""
    value = kept_loss(loss)
    for position in range(window.num_micro_batches):
        window._terms.append(window._shares.share(position, window._terms, None, per, "mean"))
        window._losses.append(value)
