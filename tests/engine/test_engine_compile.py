"""Compiled models: full windows, tails and learned sizes cause no compilation beyond the first ones."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger
from gradledger.engine.memory.measuring import Bench
from gradledger.errors import UserError


class Counting:
    """A compiler back end that counts the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: Any, _example: Any) -> Any:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture
def counting() -> Any:
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def train(model: nn.Module, trained: nn.Module, sizes: list[int], num_epochs: int) -> Tensor:
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(trained.parameters(), lr=0.1))
    generator = torch.Generator().manual_seed(1)
    loader = [torch.randn(size, 6, generator=generator) for size in sizes]
    for _ in range(num_epochs):
        for window in accumulator.windows(loader, steps=3):
            with window:
                for batch in window:
                    window.backward(loss_fn(model, batch))
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_windows_and_tails_are_not_compiled_again(counting: Counting) -> None:
    plain = network()
    expected = train(plain, plain, [8, 8, 8, 8, 5], num_epochs=3)
    inner = network()
    found = train(torch.compile(inner, backend=counting), inner, [8, 8, 8, 8, 5], num_epochs=1)
    after_one_epoch = counting.num_graphs
    assert 1 <= after_one_epoch <= 2  # one, and one with a free size for the short micro-batch
    inner = network()
    compiled = torch.compile(inner, backend=counting)
    train(compiled, inner, [8, 8, 8, 8, 5], num_epochs=1)
    before = counting.num_graphs
    inner.load_state_dict(network().state_dict())
    found = train(compiled, inner, [8, 8, 8, 8, 5, 7, 3], num_epochs=2)
    assert counting.num_graphs == before  # other windows, other tails: nothing new
    inner.load_state_dict(network().state_dict())
    found = train(compiled, inner, [8, 8, 8, 8, 5], num_epochs=3)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_samples_of_unlike_length_in_buckets_are_compiled_few_times(counting: Counting) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids)).square().mean()

    inner = Reader()
    compiled = torch.compile(inner, backend=counting)
    accumulator = gradledger.Accumulator(compiled, torch.optim.SGD(inner.parameters(), lr=0.1))
    seen = []
    for seed in range(4):
        lengths = torch.randint(1, 40, (32,), generator=torch.Generator().manual_seed(seed))
        ids = torch.ones(32, 40, dtype=torch.long) * (torch.arange(40) < lengths[:, None])
        accumulator.update(ids, lambda m, b: m(b), lengths=lengths, token_budget=160, length_bucket=8)
        seen.append(counting.num_graphs)
    assert seen[-1] == seen[0] <= 3


# compile=, by the accumulator itself


def train_compiled(options: Any, sizes: list[int], num_epochs: int, **more: Any) -> tuple[Tensor, nn.Module]:
    model = network()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), compile=options, **more)
    generator = torch.Generator().manual_seed(1)
    loader = [torch.randn(size, 6, generator=generator) for size in sizes]
    for _ in range(num_epochs):
        for window in accumulator.windows(loader, steps=3):
            with window:
                for batch in window:
                    window.backward(loss_fn(model, batch))
        accumulator.update(torch.cat(loader), loss_fn, micro_batch_size=6)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "sizes", [[8, 8, 8, 8, 5], [8, 8, 8, 1], [5, 8, 2, 1, 7, 1]], ids=["tail", "single sample", "uneven"]
)
def test_one_compilation_serves_windows_tails_and_updates(counting: Counting, sizes: list[int]) -> None:
    found, _ = train_compiled({"backend": counting}, sizes, 2)
    expected, _ = train_compiled(False, sizes, 2)
    assert counting.num_graphs == 1
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_micro_batches_that_are_all_one_sample_are_compiled(counting: Counting) -> None:
    train_compiled({"backend": counting}, [1, 1, 1], 1)
    assert counting.num_graphs == 2  # for one sample, and for the six of update()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("by_user", [False, True])
def test_measuring_compiles_no_more_and_hinders_no_compilation(
    counting: Counting, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, by_user: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 + 0.01 * len(batch))  # larger is faster
    inner = network()
    model = torch.compile(inner, backend=counting) if by_user else inner
    accumulator = gradledger.Accumulator(
        model, torch.optim.SGD(inner.parameters(), lr=0.1), compile=False if by_user else {"backend": counting}
    )
    update = accumulator.update(torch.randn(64, 6), loss_fn)
    assert (update.num_micro_batches, counting.num_graphs) == (1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_is_as_it_was_when_the_accumulator_is_gone(counting: Counting) -> None:
    _, model = train_compiled({"backend": counting}, [8], 1)
    assert model._compiled_call_impl is None
    model(torch.randn(3, 6))
    copied = copy.deepcopy(model)
    assert counting.num_graphs == 1
    accumulator = gradledger.Accumulator(
        model, torch.optim.SGD(model.parameters(), lr=0.1), compile={"backend": counting}
    )
    assert copy.deepcopy(model)._compiled_call_impl is None
    with torch.no_grad():
        torch.testing.assert_close(model(torch.ones(3, 6)), copied(torch.ones(3, 6)))
    assert counting.num_graphs == 2  # evaluation is compiled too
    del accumulator


class Block(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(self.norm(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_checkpointed_blocks_are_compiled_as_well(norm: type[nn.Module]) -> None:
    """Running statistics move once, whatever the compiled backward computes again."""

    def run(**options: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(*(Block(norm(6)) for _ in range(3)))
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            accumulator.update(torch.randn(20, 6, generator=generator), loss_fn, micro_batch_size=8)
        return model.state_dict()

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = run(compile={"backend": "aot_eager"}, checkpointing=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()
    for name, value in run().items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("max-autotune", "compile='max-autotune': give True, or a mapping"),
        ({"backend": "no such"}, "is not what torch.compile takes: .*no such"),
        ({"fast": True}, "is not what torch.compile takes: .*fast"),
    ],
)
def test_wrong_options_are_named(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_compiled(options, [8], 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_that_is_compiled_already_is_refused(counting: Counting) -> None:
    compiled = network()
    compiled.compile(backend=counting)
    for model in (compiled, torch.compile(network(), backend=counting)):
        with pytest.raises(UserError, match="compiled already"):
            gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), compile=True)


INDUCTOR = """
import json, sys
import torch
from engine.test_engine_compile import train_compiled
sizes = [8, 8, 8, 5, 1]
found, _ = train_compiled(True, sizes, 2)
expected, _ = train_compiled(False, sizes, 2)
num_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(json.dumps({"num_graphs": num_graphs, "gap": float((found - expected).abs().max())}))
"""


@pytest.mark.slow
def test_inductor_trains_the_same_over_full_micro_batches_and_tails(tmp_path: Path) -> None:
    """In a process of its own, since inductor leaves threads and variables behind."""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", INDUCTOR], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["num_graphs"] == 1
    assert result["gap"] < 1e-5
