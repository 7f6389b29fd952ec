"""Capturing: one micro-batch's forward and backward on fixed memory, recorded, to be replayed on other values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from gradledger.engine.batches.nesting import map_tensors, tensor_leaves

_NUM_WARM_UPS = 3  # what torch's own make_graphed_callables does before a capture


class Recorder(Protocol):
    """Records what a function has a device do."""

    device_type: str

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Run it a few times, record it once, and return what replays the recording on the same memory."""
        ...


class CudaRecorder:
    """Records with a CUDA graph."""

    device_type = "cuda"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """Run it a few times on a stream of its own, capture it, and return what replays the graph."""
        current = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_NUM_WARM_UPS):
                run()
        current.wait_stream(stream)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            # a loader's thread may pin memory meanwhile
            with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                run()
        except BaseException:
            self._end(pool)
            generator.graphsafe_set_state(state)
            raise
        replay: Callable[[], None] = graph.replay
        return replay

    def _end(self, pool: tuple[int, int]) -> None:
        """End a capture that failed: torch itself leaves the generator and the allocator as if it were still going on.

        The next dropout would raise then, and memory that two streams have used would never be freed.
        """
        with suppress(RuntimeError):  # torch has ended it
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


class Captured:
    """A recorded forward and backward, which adds to gradients at fixed addresses.

    The addresses are made before the recording, so that autograd adds to them in place: a gradient that is made inside
    of a recording is the recording's own memory, which the next replay overwrites (pytorch#181723).

    Args:
        recorder: Records it.
        micro_batch: One like those that it will be replayed for; its values are copied.
        compute: Gives the loss of a micro-batch.
        send_back: ``send_back(loss, seed)`` adds the gradient of a loss, times the seed, to ``.grad``.
        gradients: Gradients that such a backward makes, by parameter; memory like theirs is kept.
    """

    def __init__(
        self,
        recorder: Recorder,
        micro_batch: Any,
        compute: Callable[[Any], Tensor],
        send_back: Callable[[Tensor, Tensor], None],
        gradients: dict[Tensor, Tensor],
    ) -> None:
        self._inputs = map_tensors(micro_batch, torch.clone)
        self._gradients = {parameter: torch.zeros_like(gradient) for parameter, gradient in gradients.items()}
        self._losses: list[Tensor] = []
        self._seed: Tensor | None = None

        def run() -> None:
            loss = compute(self._inputs)
            if self._seed is None:
                self._seed = torch.ones_like(loss)
            send_back(loss, self._seed)
            # Without its graph, which would keep nodes that belong to this run's stream; seen as one that has one.
            self._losses[:] = [loss.detach().requires_grad_()]

        self.attach()
        self._replay = recorder.record(run)

    @property
    def loss(self) -> Tensor:
        """Where each replay leaves its loss."""
        return self._losses[0]

    @property
    def is_attached(self) -> bool:
        """Whether the gradients of the parameters are those that replays add to: all of them are, or none is."""
        parameter, gradient = next(iter(self._gradients.items()))
        return parameter.grad is gradient

    def attach(self) -> None:
        """Let the gradients be those that replays add to, with the values that there are already."""
        with torch.no_grad():
            for parameter, gradient in self._gradients.items():
                if parameter.grad is None:
                    gradient.zero_()
                elif parameter.grad is not gradient:
                    gradient.copy_(parameter.grad)
                parameter.grad = gradient

    def replay(self, micro_batch: Any, seed: Tensor) -> Tensor:
        """Add the gradient of a micro-batch's loss, times the seed. Returns the loss."""
        assert self._seed is not None
        with torch.no_grad():
            for own, given in zip(_tensors(self._inputs), _tensors(micro_batch), strict=True):
                own.copy_(given, non_blocking=True)
            self._seed.copy_(seed)
        self._replay()
        return self.loss.detach().clone()


def _tensors(batch: Any) -> Sequence[Tensor]:
    return [tensor for _, tensor in tensor_leaves(batch)]
