"""CUDA graphs of ``update``: on the CPU with a recorder that replays on fixed memory as a graph does; on a GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger
from engine.injected_faults import Fault, loss_fn, network
from gradledger.engine.graphs import updates
from gradledger.engine.graphs.keys import batch_key, function_key
from gradledger.engine.graphs.updates import GraphedUpdates, check_supported
from gradledger.errors import UserError


class FixedMemory:
    """Replays as a graph does: whatever ``.grad`` is by then, it adds to the memory that was there when recording."""

    device_type = "cpu"

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self.num_records = self.num_replays = 0

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        self.num_records += 1
        for _ in range(3):
            run()
        recorded = [parameter.grad for parameter in self._parameters]

        def replay() -> None:
            self.num_replays += 1
            self._on_recorded(run, recorded)

        return replay

    def _on_recorded(self, run: Callable[[], None], recorded: list[Tensor | None]) -> None:
        present = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        run()
        for parameter, own, gradient in zip(self._parameters, recorded, present, strict=True):
            if own is not None and parameter.grad is not None:
                self.write(own, parameter.grad)
            parameter.grad = gradient

    def write(self, own: Tensor, made: Tensor) -> None:
        own.add_(made)


class Overwriting(FixedMemory):
    """The fault of pytorch#181723: each replay writes its gradient over the one before."""

    def write(self, own: Tensor, made: Tensor) -> None:
        own.copy_(made)


class Unwilling(FixedMemory):
    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def make(
    is_graphed: bool, recorder: Callable[[nn.Module], FixedMemory] = FixedMemory, **options: Any
) -> tuple[gradledger.Accumulator, Any]:
    model = network(Fault())
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters(), lr=0.01), **options)
    recording = recorder(model) if is_graphed else None
    if recording is not None:
        accumulator._graphs = GraphedUpdates(accumulator, recording)
    torch.manual_seed(7)
    return accumulator, recording


def data(num_updates: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randn(size, 1, generator=generator))
        for _ in range(num_updates)
    ]


def train(is_graphed: bool, *, num_updates: int = 5, size: int = 32, **options: Any) -> Any:
    accumulator, recording = make(is_graphed, **options)
    windows = [accumulator.update(batch, loss_fn, micro_batch_size=8) for batch in data(num_updates, size)]
    seen = [(window.loss, window.grad_norm, window.weight) for window in windows]
    return accumulator.model.state_dict(), torch.get_rng_state(), seen, accumulator.ledger.text(), recording


def assert_alike(found: Any, expected: Any) -> None:
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-6, atol=1e-7)
    assert torch.equal(found[1], expected[1])
    for one, other in zip(found[2], expected[2], strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert found[3] == expected[3]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.05},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"accumulate_dtype": torch.float64},
        {"non_finite": "skip-update"},
        {"weight": lambda batch: 1.0 + float(batch[0][0, 0] > 0)},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_replays_come_to_the_same_with_dropout_and_batch_norm(options: dict[str, Any]) -> None:
    found = train(True, **options)
    assert_alike(found, train(False, **options))
    recording = found[4]
    assert recording.num_records == 1
    assert recording.num_replays == 2 * 4 + 4 * 4  # two rehearsals, and four windows after the first


def test_tails_run_as_usual_in_the_same_window() -> None:
    found = train(True, size=27)
    assert_alike(found, train(False, size=27))
    assert found[4].num_replays == 2 * 3 + 4 * 3


@pytest.mark.parametrize("size", [8, 16])
def test_few_micro_batches_are_rehearsed_too(size: int) -> None:
    assert_alike(train(True, size=size), train(False, size=size))


def test_a_capture_sees_no_casts_of_parameters_from_before() -> None:
    """A graph would use them for ever: what is cast is cast inside of it, where the cache is off."""
    seen: list[bool] = []

    class Watching(FixedMemory):
        def record(self, run: Callable[[], None]) -> Callable[[], None]:
            seen.clear()
            replay = super().record(run)
            assert len(seen) == 3
            assert not any(seen)
            return replay

    def watched(model: nn.Module, batch: Any) -> Tensor:
        seen.append(torch.is_autocast_cache_enabled())
        return loss_fn(model, batch)

    accumulator, recording = make(True, Watching, precision="bf16-mixed")
    for batch in data(2):
        accumulator.update(batch, watched, micro_batch_size=8)
    assert recording.num_records == 1


def test_a_graph_that_overwrites_gradients_is_found_out() -> None:
    with pytest.raises(UserError, match="of its norm away from the one that is computed as usual"):
        train(True, recorder=Overwriting)


def test_without_the_rehearsal_it_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above rests on: the wrong gradients do reach the weights."""
    monkeypatch.setattr(updates, "_compare", lambda usual, replayed: None)
    with pytest.raises(AssertionError):
        assert_alike(train(True, recorder=Overwriting), train(False))


def test_gradients_keep_their_addresses_and_are_gone_between_windows() -> None:
    accumulator, _ = make(True)
    parameters = list(accumulator.model.parameters())
    addresses: list[list[int]] = []
    accumulator.optimizer.register_step_pre_hook(lambda *_: addresses.append([p.grad.data_ptr() for p in parameters]))
    for batch in data(4):
        accumulator.update(batch, loss_fn, micro_batch_size=8)
        assert all(parameter.grad is None for parameter in parameters)
    assert addresses[1] == addresses[2] == addresses[3]


def test_a_rehearsal_leaves_no_trace_even_where_it_fails() -> None:
    accumulator, _ = make(True, Overwriting)
    accumulator.update(data(1)[0], loss_fn, micro_batch_size=8)
    before = {name: value.clone() for name, value in accumulator.model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(UserError):
        accumulator.update(data(1)[0], loss_fn, micro_batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in accumulator.model.state_dict().items())
    assert all(parameter.grad is None for parameter in accumulator.model.parameters())


def test_what_cannot_be_captured_is_explained() -> None:
    with pytest.raises(UserError, match=r"cannot be captured: operation not permitted .*\.item\(\)"):
        train(True, recorder=Unwilling)


def test_out_of_memory_beside_replays_is_recovered_from() -> None:
    accumulator, recording = make(True)
    fault = next(module for module in accumulator.model.modules() if isinstance(module, Fault))
    batches = data(6, 28)
    for batch in batches[:4]:
        accumulator.update(batch, loss_fn, micro_batch_size=8)
    records = recording.num_records
    fault.faults = {("backward", fault.calls["backward"] + 3)}  # in the tail, which runs as usual
    window = accumulator.update(batches[4], loss_fn, micro_batch_size=8)
    assert (window.num_micro_batches, window.weight) == (14, 28.0)
    for batch in (*batches[5:], *batches[5:]):
        accumulator.update(batch, loss_fn, micro_batch_size=8)
    assert recording.num_records == records + 1  # captured anew for the smaller size
    plain, _ = make(False)
    for at, size in enumerate([8, 8, 8, 8, 2, 2, 2]):
        plain.update(batches[min(at, 5)], loss_fn, micro_batch_size=size)
    for one, other in zip(accumulator.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_changed_model_is_captured_again() -> None:
    accumulator, recording = make(True)
    batches = data(8)
    for at, batch in enumerate(batches):
        if at == 4:
            accumulator.model[0].bias.requires_grad_(False)
        accumulator.update(batch, loss_fn, micro_batch_size=8)
    assert recording.num_records == 2
    plain, _ = make(False)
    for at, batch in enumerate(batches):
        if at == 4:
            plain.model[0].bias.requires_grad_(False)
        plain.update(batch, loss_fn, micro_batch_size=8)
    for one, other in zip(accumulator.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def scaled_loss(factor: float) -> Callable[..., Tensor]:
    return lambda model, batch: factor * loss_fn(model, batch)


def test_a_loss_that_is_written_in_the_loop_is_one_loss_and_a_changing_one_is_named() -> None:
    accumulator, recording = make(True)
    for batch in data(4):
        accumulator.update(batch, lambda model, each: loss_fn(model, each), micro_batch_size=8)
    assert (recording.num_records, recording.num_replays) == (1, 2 * 4 + 3 * 4)
    with pytest.raises(UserError, match="the loss function, or a value in it, has changed with each of the last 3"):
        for factor, batch in enumerate(data(4)):
            accumulator.update(batch, scaled_loss(factor), micro_batch_size=8)


def test_keys_tell_what_a_graph_has_fixed() -> None:
    def scaled(factor: Any) -> Callable[..., Any]:
        return lambda model, batch: factor * batch

    tensor = torch.ones(2)
    assert function_key(scaled(2.0)) == function_key(scaled(2.0))
    assert function_key(scaled(2.0)) != function_key(scaled(2))
    assert function_key(scaled(tensor)) == function_key(scaled(tensor))
    assert function_key(scaled(tensor)) != function_key(scaled(torch.ones(2)))
    assert function_key(partial(scaled, 1)) != function_key(partial(scaled, 2))
    module = nn.Sequential()
    assert function_key(module.eval) == function_key(module.eval)
    assert function_key(module.eval) != function_key(nn.Sequential().eval)
    assert function_key(nn.MSELoss()) != function_key(nn.MSELoss())
    one = {"x": tensor, "options": (1, None), "name": "a"}
    assert batch_key(one) == batch_key({**one, "x": torch.zeros(2)})
    for change in ({"x": torch.ones(3)}, {"x": tensor.double()}, {"options": (2, None)}, {"name": "b"}, {"more": 1}):
        assert batch_key(one) != batch_key({**one, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"non_finite": "drop-micro-batch"}, "non_finite='drop-micro-batch'"),
        ({"batch_norm": "pooled"}, "batch_norm='pooled'"),
        ({"checkpointing": [0]}, "checkpointing="),
        ({"offload": "cpu"}, "offload="),
        ({"lbfgs": True}, "LBFGS, which runs the loss again"),
    ],
)
def test_what_python_does_between_micro_batches_is_refused(options: dict[str, Any], message: str) -> None:
    model = network(Fault())
    kind = torch.optim.LBFGS if options.pop("lbfgs", False) else torch.optim.SGD
    if "checkpointing" in options:
        options["checkpointing"] = [model[0]]
    accumulator = gradledger.Accumulator(model, kind(model.parameters(), lr=0.1), **options)
    with pytest.raises(UserError, match=f"cuda_graph=True cannot be combined with {message}"):
        check_supported(accumulator)


def test_a_cpu_has_no_graphs_and_inputs_must_be_where_the_graph_is() -> None:
    model = network(Fault())
    with pytest.raises(UserError, match="cuda_graph=True needs a model on a CUDA device, and this one is on cpu"):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), cuda_graph=True)
    with pytest.raises(UserError, match="cuda_graph='yes' must be True or False"):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), cuda_graph="yes")  # type: ignore[arg-type]
    accumulator, recording = make(True)
    recording.device_type = "cuda"
    accumulator.update(data(1)[0], loss_fn, micro_batch_size=8)
    with pytest.raises(UserError, match=r"batch\[0\] is not on the device .* give the accumulator device="):
        accumulator.update(data(1)[0], loss_fn, micro_batch_size=8)


def test_no_graph_of_a_loss_outlives_its_run() -> None:
    """Its nodes would belong to the stream of a warm-up, and take the backward out of the capture."""
    made = network(Fault())
    accumulator = gradledger.Accumulator(made, torch.optim.SGD(made.parameters(), lr=0.1))
    accumulator._graphs = GraphedUpdates(accumulator, FixedMemory(made))
    for _ in range(2):
        accumulator.update(data(1)[0], loss_fn, micro_batch_size=8)
    assert accumulator._graphs._known.captured.loss.grad_fn is None


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Flatten(), nn.Linear(4, 1))
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accumulator._graphs = GraphedUpdates(accumulator, FixedMemory(model))
    batch = torch.randint(5, (8, 2)), torch.randn(8, 1)
    accumulator.update(batch, loss_fn, micro_batch_size=4)
    with pytest.raises(UserError, match="a gradient is sparse"):
        accumulator.update(batch, loss_fn, micro_batch_size=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_on_a_gpu_replays_come_to_the_same(precision: str) -> None:
    def run(is_graphed: bool) -> Any:
        model = network(Fault()).cuda()
        accumulator = gradledger.Accumulator(
            model,
            torch.optim.Adam(model.parameters(), lr=0.01),
            precision=precision,
            device="cuda",
            clip_norm=1.0,
            cuda_graph=is_graphed,
        )
        torch.manual_seed(7)
        windows = [accumulator.update(batch, loss_fn, micro_batch_size=8) for batch in data(8, 27)]
        assert not is_graphed or accumulator._graphs._known.num_rehearsals == 2
        return model.state_dict(), [window.loss for window in windows]

    found, expected = run(True), run(False)
    rtol = 1e-4 if precision == "32-true" else 2e-2
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=rtol, atol=rtol / 10)
    assert found[1] == pytest.approx(expected[1], rel=rtol)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_loss_that_waits_for_a_value_is_explained() -> None:
    model = network(Fault()).cuda()
    accumulator = gradledger.Accumulator(
        model, torch.optim.SGD(model.parameters(), lr=0.1), device="cuda", cuda_graph=True
    )

    def waiting(model: nn.Module, batch: Any) -> Tensor:
        loss = loss_fn(model, batch)
        return loss * 2 if loss.item() > 0 else loss

    accumulator.update(data(1)[0], waiting, micro_batch_size=8)
    with pytest.raises(UserError, match="cannot be captured"):
        accumulator.update(data(1)[0], waiting, micro_batch_size=8)

    usual = gradledger.Accumulator(model, accumulator.optimizer, device="cuda")  # training can go on without
    held = []
    for _ in range(4):
        usual.update(data(1)[0], loss_fn, micro_batch_size=8)
        held.append(torch.cuda.memory_allocated())
    assert max(held[1:]) - min(held[1:]) < 2**16  # a few small blocks come and go with other tests' garbage
