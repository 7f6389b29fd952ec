"""Offloading: sums in host memory are those of ``.grad`` to the last bit, and gradients do not stand on the device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger
from engine.injected_faults import Fault, assert_same, batches, loss_fn, network, state_of
from gradledger.engine.memory.offloading import HostGradients
from gradledger.errors import UserError


def train(offload: Any, *, lbfgs: bool = False, **options: Any) -> Any:
    model = network(Fault())
    if options.get("precision") == "bf16-true":
        model.to(torch.bfloat16)
    kind = torch.optim.LBFGS if lbfgs else torch.optim.Adam
    accumulator = gradledger.Accumulator(model, kind(model.parameters(), lr=0.01), offload=offload, **options)
    torch.manual_seed(7)
    dtype = next(model.parameters()).dtype
    windows = [accumulator.update((x.to(dtype), y.to(dtype)), loss_fn, micro_batch_size=8) for x, y in batches()]
    assert all(parameter.grad is None and not parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    return state_of(model, windows), [window.grad_norm for window in windows], accumulator.ledger.text()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.05},
        {"precision": "16-mixed"},
        {"precision": "bf16-true", "accumulate_dtype": torch.float32},
        {"non_finite": "skip-update"},
        {"lbfgs": True},
        {"checkpointing": lambda module: isinstance(module, nn.BatchNorm1d)},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_an_update_is_the_same_to_the_last_bit(options: dict[str, Any]) -> None:
    found, expected = train("cpu", **options), train(None, **options)
    assert_same(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_terms_late_weights_and_sparse_gradients_are_the_same() -> None:
    def run(offload: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 1))
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), offload=offload)
        loader = [torch.randint(9, (size, 3)) for size in (4, 2, 3)]
        for late in (False, True):
            for window in accumulator.windows(loader, steps=3):
                with window:
                    for ids in window:
                        outputs = model(ids)
                        if late:
                            window.backward(outputs.square().mean(), weight=len(ids))
                        else:
                            window.backward(outputs.square().mean(), retain_graph=True)
                            window.backward(outputs.abs().mean())
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(run("cpu"), run(None), strict=True))


def test_a_coupled_update_is_the_same() -> None:
    def run(offload: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), offload=offload)

        def contrastive(model: nn.Module, z: Tensor, batch: Tensor) -> Tensor:
            return nn.functional.cross_entropy(z @ z.T, torch.arange(len(z)))

        accumulator.update_coupled(batches(1)[0][0], lambda m, x: m(x), contrastive, micro_batch_size=8)
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(run("cpu"), run(None), strict=True))


def test_gradients_leave_one_by_one_and_come_back_at_the_close() -> None:
    model = network(Fault())
    parameters = list(model.parameters())
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(parameters, lr=0.1), offload="cpu")
    there: list[int] = []

    def count(*_: Any) -> None:
        there.append(sum(parameter.grad is not None for parameter in parameters))

    window = next(accumulator.windows([batches(1, 8)[0]] * 2, steps=2))
    with window:
        hooks = [parameter.register_post_accumulate_grad_hook(count) for parameter in parameters]
        for batch in window:
            window.backward(loss_fn(model, batch))
            count()
        handle = accumulator.optimizer.register_step_pre_hook(count)
    assert there == [0] * (2 * len(parameters) + 2) + [len(parameters)]
    for hook in [*hooks, handle]:
        hook.remove()


def test_a_void_window_leaves_nothing_for_the_next() -> None:
    model = network(Fault("backward", 1), is_stateful=False)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), offload="cpu")
    loader = [batches(1, 8)[0]] * 2
    for attempt in range(2):
        window = next(accumulator.windows(loader, steps=2))
        try:
            with window:
                for batch in window:
                    window.backward(loss_fn(model, batch))
        except torch.OutOfMemoryError:
            assert attempt == 0
            assert accumulator._account.host_gradients.sums() == {}
    plain = network(Fault(), is_stateful=False)
    gradledger.Accumulator(plain, torch.optim.SGD(plain.parameters(), lr=0.1)).update(
        tuple(torch.cat([part, part]) for part in loader[0]), loss_fn, micro_batch_size=8
    )
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))


def test_an_open_window_is_saved_with_its_sums() -> None:
    def run(is_interrupted: bool) -> list[Tensor]:
        model = network(Fault())
        loader = [batches(1, 8)[0]] * 3
        make = lambda: gradledger.Accumulator(  # noqa: E731
            model, torch.optim.SGD(model.parameters(), lr=0.1), offload="cpu"
        )
        accumulator, read = make(), iter(loader)
        torch.manual_seed(1)
        with next(accumulator.windows(read, steps=3)) as window:
            for position, batch in enumerate(window):
                window.backward(loss_fn(model, batch))
                if is_interrupted and position == 1:
                    state = accumulator.state_dict()
                    break
        if is_interrupted:
            accumulator = make()
            accumulator.load_state_dict(state)
            with next(accumulator.windows(read, steps=3)) as window:
                for batch in window:
                    window.backward(loss_fn(model, batch))
        assert accumulator.num_updates == 1
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(run(True), run(False), strict=True))


def test_measuring_keeps_gradients_as_a_window_does(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    taken: list[int] = []
    monkeypatch.setattr(HostGradients, "take", lambda self, parameter: taken.append(1))
    model = nn.Linear(6, 1)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), offload="cpu")
    accumulator._sizes.learned(_samples(), "auto", loss_fn, _by_samples(), cache=False)
    assert len(taken) > 8
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def _samples() -> Any:
    from gradledger.engine.batches.splitting import read_samples

    return read_samples(batches(1)[0])


def _by_samples() -> Any:
    from gradledger.engine.memory.sizing import BySamples

    return BySamples()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "disk"}, "offload='disk': choose 'cpu'"),
        ({"offload": "cpu", "non_finite": "drop-micro-batch"}, "before non_finite='drop-micro-batch' can judge"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    model = nn.Linear(6, 1)
    with pytest.raises(UserError, match=message):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)


@pytest.mark.parametrize(
    ("options", "expected", "text"),
    [
        ({}, (80, 0, 0, 0), "gradients take 80 bytes on the device"),
        (
            {"accumulate_dtype": torch.float64, "non_finite": "drop-micro-batch"},
            (320, 0, 160, 160),
            "gradients take 320 bytes on the device, 160 bytes of them for accumulate_dtype=, 160 bytes of them for "
            "drop-micro-batch",
        ),
        (
            {"accumulate_dtype": torch.float64, "offload": "cpu"},
            (0, 160, 80, 0),
            "gradients take 160 bytes in host memory, none on the device before the close, 80 bytes of them for "
            "accumulate_dtype=",
        ),
    ],
)
def test_what_gradients_take_is_told(options: dict[str, Any], expected: tuple[int, ...], text: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False))
    told = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **options).gradient_bytes
    assert (told.device, told.host, told.for_accumulate_dtype, told.for_dropping) == expected
    assert str(told) == text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_sums_are_the_same_and_the_peak_is_lower() -> None:
    def run(offload: Any) -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(32))).cuda()
        accumulator = gradledger.Accumulator(
            model, torch.optim.SGD(model.parameters(), lr=0.01), clip_norm=1.0, offload=offload, device="cuda"
        )
        window = next(accumulator.windows([torch.randn(16, 1024)] * 4, steps=4))
        with window:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            for batch in window:
                window.backward(model(batch).square().mean())
            peak = torch.cuda.max_memory_allocated() - before
        return [parameter.cpu() for parameter in model.parameters()], peak

    (found, less), (expected, more) = run("cpu"), run(None)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert less < more / 2
