"""Coupled losses (contrastive, in-batch negatives): one exact update in two passes over the micro-batches.

A loss that compares the samples of a batch with each other is no mean over samples, so its gradient is no weighted sum
of the micro-batches' gradients. It does depend on the parameters through each sample's representation alone, and so

    1. every micro-batch is encoded without a graph, which keeps its representations only;
    2. the loss of all representations together gives the gradient of each of them;
    3. every micro-batch is encoded again, with the same random numbers and buffers, and its part of that gradient is
       sent back through it.

The method is GradCache (Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
The last micro-batch keeps its graph from the first pass and is not encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradledger.engine.batches.nesting import map_tensors, tensor_leaves, to_device
from gradledger.engine.batches.splitting import split_batch
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


@dataclass(slots=True)
class _Part:
    """One micro-batch for one encoder."""

    encoder: str
    encode: Encoder
    micro_batch: Any
    output: Any = None
    leaves: list[Tensor] = field(default_factory=list)
    generators: Generators | None = None
    buffers: BufferValues = field(default_factory=dict)


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
    parts = _split(batch, encode, micro_batch_size)
    window = Window(accumulator, [part.micro_batch for part in parts])
    with window:
        _two_passes(window, parts, batch, loss_fn, is_mapping=isinstance(encode, Mapping))
    return window


def _split(batch: Any, encode: Encoder | Mapping[str, Encoder], size: MicroBatchSize) -> list[_Part]:
    if not isinstance(encode, Mapping):
        if isinstance(size, Mapping):
            raise UserError("micro_batch_size is a mapping, so encode must be one too, with the same names")
        return [_Part("", encode, micro_batch) for micro_batch in split_batch(batch, size)]
    if not isinstance(batch, Mapping) or not encode or set(encode) - set(batch):
        raise UserError(
            f"encode names the encoders {', '.join(encode) or '(none)'}, so the batch must be a mapping that has a "
            f"part for each, not {', '.join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__}"
        )
    parts = []
    for name, function in encode.items():
        if isinstance(size, Mapping) and name not in size:
            raise UserError(f"micro_batch_size names {', '.join(size)}, but not the encoder {name!r}")
        own_size = size[name] if isinstance(size, Mapping) else size
        parts += [_Part(name, function, micro_batch) for micro_batch in split_batch(batch[name], own_size)]
    return parts


def _two_passes(window: Window, parts: list[_Part], batch: Any, loss_fn: CoupledLoss, *, is_mapping: bool) -> None:
    accumulator = window._accumulator
    model, account = accumulator.model, accumulator._account
    devices = {parameter.device for parameter in account.parameters}
    history = BufferHistory(model)
    for part, micro_batch in zip(parts, window, strict=True):
        part.generators, part.buffers = Generators(devices), history.take()
        with torch.no_grad() if part is not parts[-1] else nullcontext():
            part.output = part.encode(model, micro_batch)
    # Casts of parameters made without a graph must not serve the replays, which need their graph.
    torch.clear_autocast_cache()
    for part in parts:
        _cut_from_graph(part)
    grouped = {
        name: _joined([p for p in parts if p.encoder == name]) for name in dict.fromkeys(p.encoder for p in parts)
    }
    whole = batch if accumulator._device is None else to_device(batch, accumulator._device)
    loss = loss_fn(model, grouped if is_mapping else grouped[""], whole)
    _check_loss(loss)
    _backward(window, [loss], [window._seed(loss, 1.0)], [leaf for part in parts for leaf in part.leaves])
    _write_down(window, loss, per=None if accumulator._weights.counts_samples else PER_MICRO_BATCH)
    end = Generators(devices), history.take()
    _send_back(window, parts.pop())
    with nullcontext() if accumulator._statistics is None else accumulator._statistics.held():
        for part in parts:
            if any(leaf.grad is not None for leaf in part.leaves):
                _encode_again(window, part, history)
                _send_back(window, part)
    end[0].restore()
    history.restore(end[1])


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
    device = window._accumulator._device
    micro_batch = part.micro_batch if device is None else to_device(part.micro_batch, device)
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
    part.output, part.leaves = None, []


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
