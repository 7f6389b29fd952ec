"""Activation checkpointing: the same numbers to the last bit, less memory, and a model that is left as it was."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger
from gradledger.engine.memory import checkpointing, fitting
from gradledger.engine.memory.checkpointing import repeated_blocks
from gradledger.engine.memory.estimating import estimated_peak_bytes
from gradledger.engine.memory.measuring import Bench
from gradledger.errors import UserError


class Block(nn.Module):
    """What a second forward can get wrong: running statistics, power iterations, dropout; and a named argument."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(0.3)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.utils.parametrizations.spectral_norm(nn.Linear(4 * width, width))
        self.num_runs = 0

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        self.num_runs += 1
        return x + scale * self.down(self.drop(torch.tanh(self.up(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, width: int = 8, num_blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(num_blocks)])
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=torch.tensor(0.5))
        return self.head(x)


def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def train(choice: Any, **options: Any) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    model = Net()
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters()), checkpointing=choice, **options)
    batch = torch.randn(24, 8)
    losses = [accumulator.update(batch, loss_fn, micro_batch_size=8).loss for _ in range(2)]
    return model, losses


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": "pooled"}, {"precision": "bf16-mixed"}, {"non_finite": "drop-micro-batch"}]
)
def test_everything_is_the_same_to_the_last_bit(options: dict[str, Any]) -> None:
    plain, expected = train(False, **options)
    found, losses = train(True, **options)
    assert losses == expected
    for (name, one), other in zip(found.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert [block.num_runs for block in found.blocks] == [2 * block.num_runs for block in plain.blocks]


@pytest.mark.parametrize("broken", ["buffers", "statistics"])
def test_the_guard_sees_buffers_that_move_twice(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "buffers":
        monkeypatch.setattr(checkpointing._Buffers, "lent", lambda _: nullcontext())
    options: dict[str, Any] = {"batch_norm": "pooled"} if broken == "statistics" else {}
    if broken == "statistics":
        monkeypatch.setattr(checkpointing.Checkpointing, "begin", _begin_counting)
    one, other = train(True, **options)[0].state_dict(), train(False, **options)[0].state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def _begin_counting(self: checkpointing.Checkpointing) -> None:
    self._uncounted = nullcontext
    for module, _, kind in self._kinds:
        module.__class__ = kind


def test_the_model_is_as_it_was_after_a_window_and_after_an_error() -> None:
    model = Net()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=True)
    kinds: list[type] = []
    accumulator.on_update(lambda _: kinds.append(type(model.blocks[0])))
    accumulator.update(torch.randn(8, 8), loss_fn, micro_batch_size=4)

    def fail(model: nn.Module, x: Tensor) -> Tensor:
        kinds.append(type(model.blocks[0]))
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        accumulator.update(torch.randn(8, 8), fail, micro_batch_size=4)
    assert kinds[0] is Block
    assert kinds[1] is not Block
    assert issubclass(kinds[1], Block)
    assert (type(model.blocks[0]), checkpointing._uncounted_in) == (Block, {})


def test_without_gradients_nothing_is_run_twice() -> None:
    model = Net()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=True)
    window = next(accumulator.windows([torch.randn(8, 8)], steps=1))
    with window:
        for x in window:
            with torch.no_grad():
                model(x)
            assert model.blocks[0].num_runs == 1
            window.backward(loss_fn(model, x))
    assert model.blocks[0].num_runs == 3


def flat(num_layers: int = 9) -> nn.Module:
    layers = [layer for _ in range(num_layers) for layer in (nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1))]
    return nn.Sequential(*layers, nn.Linear(64, 1))


@pytest.mark.parametrize(("make", "most"), [(lambda: Net(64, 6), 0.4), (flat, 0.45)])
def test_memory_is_less_and_the_estimate_knows_it(make: Any, most: float) -> None:
    model = make()
    parameters, batch = list(model.parameters()), torch.randn(256, 64)
    peaks = {}
    for choice in (False, True):
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(parameters, lr=0.1), checkpointing=choice)
        bench = Bench(model, parameters, loss_fn, saving=accumulator._saving)
        peaks[choice] = bench.peak_bytes(batch)
        assert estimated_peak_bytes(model, parameters, bench, batch) == pytest.approx(peaks[choice], rel=1e-3)
    assert peaks[True] < most * peaks[False]


def test_segments_of_a_flat_model_compute_the_same() -> None:
    def train_flat(choice: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = flat(3)
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=choice)
        accumulator.update(torch.randn(8, 64), loss_fn, micro_batch_size=4)
        return list(model.parameters())

    assert all(torch.equal(one, other) for one, other in zip(train_flat(True), train_flat(False), strict=True))


def test_the_automatic_size_sees_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fitting, "available_bytes", lambda device: 4_000_000)
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 + 0.01 * len(batch))
    nums = {}
    for choice in (False, True, False):  # the cache tells them apart
        model = flat()
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=choice)
        nums.setdefault(choice, []).append(accumulator.update(torch.randn(1024, 64), loss_fn).num_micro_batches)
    assert nums[True][0] <= nums[False][0] / 2
    assert nums[False][0] == nums[False][1]


def test_the_default_blocks_are_the_repeated_ones() -> None:
    model = Net()
    assert repeated_blocks(model) == list(model.blocks)
    transformer = nn.Transformer(16, 2, 2, 3, 32, batch_first=True)
    kinds = [type(block).__name__ for block in repeated_blocks(transformer)]
    assert kinds == ["TransformerEncoderLayer"] * 2 + ["TransformerDecoderLayer"] * 3
    stages = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), *(Block(8) for _ in range(2))) for _ in range(2)))
    assert [type(block) for block in repeated_blocks(stages)] == [Block] * 4
    assert repeated_blocks(flat()) == []


def test_modules_are_chosen_by_list_or_by_callable() -> None:
    for choose in (lambda m: [m.blocks[1], m.head], lambda m: lambda part: part in (m.blocks[1], m.head)):
        model = Net()
        accumulator = gradledger.Accumulator(
            model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=choose(model)
        )
        assert accumulator._checkpointing.names == ["blocks.1", "head"]
        accumulator.update(torch.randn(8, 8), loss_fn, micro_batch_size=4)
        assert [block.num_runs for block in model.blocks] == [2, 4, 2, 2]


class Growing(nn.Module):
    """Counts in a buffer that is too large to be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1)
        self.register_buffer("counts", torch.zeros(checkpointing._MOST_KEPT + 1))

    def forward(self, x: Tensor) -> Tensor:
        self.counts += 1
        return self.linear(x)


def test_a_large_buffer_that_changes_is_named() -> None:
    model = nn.Sequential(Growing())
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=[model[0]])
    with pytest.raises(UserError, match="Growing changes its buffer 'counts' of 65537 elements"):
        accumulator.update(torch.randn(8, 8), loss_fn, micro_batch_size=4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("full", "checkpointing='full'"),
        ([], "chooses no module"),
        (lambda module: False, "chooses no module"),
        ([nn.Linear(2, 2)], "a Linear that is no part of the model"),
        (lambda module: isinstance(module, nn.ModuleList), "'blocks', a ModuleList, which has no forward"),
    ],
)
def test_a_wrong_choice_is_named(choice: Any, message: str) -> None:
    model = Net()
    with pytest.raises(UserError, match=message):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=choice)


def test_a_model_without_blocks_is_told() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match="found no blocks"):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=True)
    model = Net()
    model.blocks[2].forward = model.blocks[2].forward
    with pytest.raises(UserError, match=r"'blocks\.2', a Block whose forward is a script or was replaced"):
        gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpointing=True)
