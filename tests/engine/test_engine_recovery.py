"""Running out of memory at every position of a window: the update is made once, with smaller micro-batches."""

import gc
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradledger
from engine.injected_faults import Fault, assert_same, batches, loss_fn, network, state_of
from gradledger.engine.batches.lengths import ByTokens, read_padded_samples
from gradledger.engine.memory import limits
from gradledger.engine.memory.limits import DoesNotFitError, bytes_asked, is_out_of_memory
from gradledger.engine.memory.measuring import MemoryTracker
from gradledger.errors import UserError


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without collecting cycles, which takes longer than everything else here."""
    monkeypatch.setattr(limits, "gc", types.SimpleNamespace(collect=lambda: 0))


def train(
    fault: Fault, size: int, *, is_stateful: bool = True, first_size: int | None = None, **options: Any
) -> tuple[Any, gradledger.Accumulator]:
    model = network(fault, is_stateful=is_stateful)
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters(), lr=0.01), **options)
    torch.manual_seed(7)
    sizes = [first_size or size, size, size]
    windows = [
        accumulator.update(batch, loss_fn, micro_batch_size=each) for batch, each in zip(batches(), sizes, strict=True)
    ]
    return state_of(model, windows), accumulator


EVERYWHERE = [(direction, position) for direction in ("forward", "backward") for position in range(4)]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"non_finite": "drop-micro-batch"},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"batch_norm": "pooled"},
        {"accumulate_dtype": torch.float64},
        {"weight": 2.0},
        {"checkpointing": lambda module: isinstance(module, nn.BatchNorm1d | Fault)},
        {"offload": "cpu"},
        {"clip_norm": 0.1},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_out_of_memory_anywhere_ends_as_a_run_that_began_with_the_final_size(options: Any) -> None:
    reference, expected = train(Fault(), 4, **options)
    for direction, position in EVERYWHERE:
        fault = Fault(direction, position)
        result, accumulator = train(fault, 8, **options)
        assert fault.calls[direction] > position
        assert_same(result, reference)
        assert accumulator.num_updates == 3
        assert accumulator.ledger.text() == expected.ledger.text()


@pytest.mark.usefixtures("_quick")
def test_out_of_memory_in_a_later_update_leaves_the_earlier_ones_as_they_are() -> None:
    reference, _ = train(Fault(), 4, first_size=8)
    for direction, position in EVERYWHERE:
        assert_same(train(Fault(direction, 4 + position), 8)[0], reference)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("second", [("forward", 4), ("backward", 3), ("backward", 12)])
def test_out_of_memory_once_more_in_the_window_that_restarted(second: tuple[str, int]) -> None:
    fault = Fault("backward", 1, more=[second])
    assert_same(train(fault, 8)[0], train(Fault(), 2, first_size=2 if second[1] < 9 else 4)[0])


def test_the_reference_differs_from_another_size() -> None:
    """What the comparison above rests on: with dropout and BatchNorm, sizes do give different weights."""
    four, eight = train(Fault(), 4)[0], train(Fault(), 8)[0]
    assert not torch.equal(four[0]["0.weight"], eight[0]["0.weight"])


class Reader(nn.Module):
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.embedding, self.drop, self.norm = nn.Embedding(9, 8), nn.Dropout(0.3), nn.BatchNorm1d(8)
        self.fault, self.head = fault, nn.Linear(8, 9)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.norm(self.drop(self.embedding(ids)).transpose(1, 2)).transpose(1, 2)
        return self.head(self.fault(hidden))


LENGTHS = [4, 4, 3, 4, 3, 3, 4, 4, 4, 3, 3, 3, 4, 3, 3, 4]


def train_on_tokens(fault: Fault, budget: int) -> Any:
    torch.manual_seed(3)
    model = Reader(fault)
    accumulator = gradledger.Accumulator(
        model, torch.optim.Adam(model.parameters(), lr=0.01), weight=gradledger.tokens(labels=lambda batch: batch[1])
    )

    def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    torch.manual_seed(7)
    update = accumulator.update(padded(), token_loss, lengths=LENGTHS, token_budget=budget)
    return state_of(model, [update])


def padded() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    is_padding = torch.arange(5) >= torch.tensor(LENGTHS)[:, None]
    ids, labels = (torch.randint(1, 9, (16, 5), generator=generator) for _ in range(2))
    return ids.masked_fill(is_padding, 0), labels.masked_fill(is_padding, -100)


@pytest.mark.usefixtures("_quick")
def test_out_of_memory_anywhere_under_a_token_budget() -> None:
    pieces = ByTokens().cut(read_padded_samples(padded(), LENGTHS), 16)
    assert [piece.num_samples for piece in pieces] == [4, 4, 5, 3]  # the last holds 9 tokens
    references = {budget: train_on_tokens(Fault(), budget) for budget in (5, 8)}
    for direction, position in EVERYWHERE:
        final = -(-ByTokens().size_of(pieces[position]) // 2)
        assert_same(train_on_tokens(Fault(direction, position), 16), references[final])


def test_only_the_micro_batch_is_split_where_nothing_else_was_used() -> None:
    fault = Fault("forward", 2)
    result, accumulator = train(fault, 8, is_stateful=False)
    assert fault.sizes[:6] == [8, 8, 8, 4, 4, 8]
    assert fault.sizes[6:] == [4] * 16  # remembered
    reference, _ = train(Fault(), 32, is_stateful=False)
    for name, value in reference[0].items():
        torch.testing.assert_close(result[0][name], value, rtol=1e-4, atol=1e-6)
    assert accumulator.ledger.text() == " ".join(["B B B B B S Z"] + ["B B B B B B B B S Z"] * 2)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("position", range(4))
def test_where_every_micro_batch_counts_as_one_none_is_split_alone(position: int) -> None:
    result, _ = train(Fault("forward", position), 8, is_stateful=False, weight=2.0)
    assert_same(result, train(Fault(), 4, is_stateful=False, weight=2.0)[0])


def test_it_goes_on_halving_until_it_fits() -> None:
    assert_same(train(Fault(above=3), 32)[0], train(Fault(), 2)[0])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_was_abandoned_is_released_before_the_next_attempt(direction: str) -> None:
    gc.disable()
    try:
        fault = Fault(direction, 2)
        train(fault, 8)
    finally:
        gc.enable()
    # A forward sees no input of an earlier one alive: not through the error's frames, nor through half a graph.
    assert fault.left_alive == 0


def test_memory_is_at_its_level_after_recovery() -> None:
    def left_over(fault: Fault) -> int:
        model = network(fault)
        accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))
        with MemoryTracker() as tracker:
            accumulator.update(batches(1)[0], loss_fn, micro_batch_size=8)
            gc.collect()
        return int(tracker.current_bytes)

    # Beside a few bytes for the coefficients of two sizes.
    assert left_over(Fault("backward", 2)) == pytest.approx(left_over(Fault()), abs=16)


def test_one_sample_that_does_not_fit_is_one_clear_error() -> None:
    fault = Fault(above=0)
    model = network(fault, is_stateful=False)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for size in (8, "auto"):
        with pytest.raises(
            DoesNotFitError, match=r"micro-batch of 1 sample .* 2\.68 GB failed .* checkpoint"
        ) as caught:
            accumulator.update(batches(1)[0], loss_fn, micro_batch_size=size, cache=False)
        assert caught.value.__cause__ is None
    assert accumulator.num_updates == 0
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_what_a_smaller_micro_batch_breaks_says_why_it_is_smaller() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        train(Fault(above=1), 2)
    assert "1 sample, because memory ran out with more" in caught.value.__notes__[0]


def test_other_errors_are_not_taken_for_memory() -> None:
    def wrong(model: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = network(Fault())
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))
    with pytest.raises(RuntimeError, match="mat1"):
        accumulator.update(batches(1)[0], wrong, micro_batch_size=8)
    assert is_out_of_memory(MemoryError())
    cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes. Error code 12")
    assert is_out_of_memory(cpu)
    assert bytes_asked(cpu) == 4000


# Loops of the user's own


def one_window(accumulator: gradledger.Accumulator) -> gradledger.Window:
    loader = [(x, y) for x, y in zip(*(part.split(8) for part in batches(1)[0]), strict=True)]
    (window,) = accumulator.windows(loader, steps=4)
    with window:
        for batch in window:
            window.backward(loss_fn(accumulator.model, batch))
    return window


@pytest.mark.parametrize(("direction", "position"), [("forward", 0), ("forward", 2), ("backward", 2)])
def test_out_of_memory_in_a_loop_of_ones_own_voids_the_window(direction: str, position: int) -> None:
    fault = Fault(direction, position)
    model = network(fault, is_stateful=False)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gc.collect()
    gc.disable()
    try:
        with MemoryTracker() as tracker:
            try:
                one_window(accumulator)
            except torch.OutOfMemoryError as error:
                (note,) = error.__notes__
                alive = [known() is not None for known in fault.inputs]
            else:
                pytest.fail("no error")
        left = tracker.current_bytes
    finally:
        gc.enable()
    assert f"in micro-batch {position + 1} of 4 of a window, which is void now" in note
    assert "accumulator.update(batch, loss_fn)" in note
    assert not any(alive)  # already while the error is being handled
    assert left <= 64  # coefficients
    assert accumulator.num_updates == 0
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    one_window(accumulator)  # the next one is right
    plain = network(Fault(), is_stateful=False)
    one_window(gradledger.Accumulator(plain, torch.optim.SGD(plain.parameters(), lr=0.01)))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))


def test_out_of_memory_in_the_step_is_told_apart() -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise torch.OutOfMemoryError("out of memory")

    model = network(Fault())
    accumulator = gradledger.Accumulator(model, Greedy(model.parameters(), lr=0.01))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        accumulator.update(batches(1)[0], loss_fn, micro_batch_size=8)
    assert "whatever the size of a micro-batch" in caught.value.__notes__[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_backward_that_failed_half_way_cannot_be_passed_over() -> None:
    model = network(Fault("backward", 1), is_stateful=False)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.01))
    window = next(accumulator.windows([batches(1)[0]] * 3, steps=3))
    with pytest.raises(UserError, match="a part of a gradient is left in it"), window:
        for batch in window:
            try:
                window.backward(loss_fn(model, batch))
            except torch.OutOfMemoryError:
                continue
    assert accumulator.num_updates == 0


# Optimizers that evaluate the loss again


def train_with_lbfgs(fault: Fault, size: int, *, by_loader: bool = False, **options: Any) -> Any:
    model = network(fault)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, lr=0.1)
    accumulator = gradledger.Accumulator(model, optimizer, **options)
    torch.manual_seed(7)
    if not by_loader:
        windows = [accumulator.update(batch, loss_fn, micro_batch_size=size) for batch in batches(2)]
        return state_of(model, windows)
    loader = [(x, y) for batch in batches(2) for x, y in zip(*(part.split(size) for part in batch), strict=True)]
    windows = []
    for window in accumulator.windows(loader, steps=32 // size):
        with window:
            window.replay(loss_fn)
        windows.append(window)
    assert [window.num_micro_batches for window in windows] == [8, 8]
    return state_of(model, windows)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("by_loader", [False, True])
def test_a_replayed_window_recovers_in_every_evaluation(by_loader: bool) -> None:
    reference = train_with_lbfgs(Fault(), 4, by_loader=by_loader)
    for direction, position in [*EVERYWHERE, ("forward", 6), ("backward", 7), ("forward", 9), ("backward", 11)]:
        assert_same(train_with_lbfgs(Fault(direction, position), 8, by_loader=by_loader), reference)


def test_micro_batches_that_cannot_be_split_are_named_when_memory_runs_out() -> None:
    model = network(Fault("forward", 1))
    accumulator = gradledger.Accumulator(model, torch.optim.LBFGS(model.parameters()), weight=1.0)
    window = next(accumulator.windows([{"x": torch.ones(4, 6), "scale": torch.ones(7)}] * 2, steps=2))
    with pytest.raises(torch.OutOfMemoryError) as caught, window:
        window.replay(lambda model, batch: model(batch["x"]).mean())
    assert "smaller micro-batches could not be tried" in caught.value.__notes__[0]
    assert "batch['scale'] has 7" in caught.value.__notes__[0]


@pytest.mark.parametrize("num_updates_before", [0, 1])
def test_an_error_in_a_later_evaluation_leaves_parameters_and_optimizer_as_they_were(num_updates_before: int) -> None:
    def run(is_failing: bool) -> Any:
        model = network(Fault(), is_stateful=False)
        accumulator = gradledger.Accumulator(model, torch.optim.LBFGS(model.parameters(), max_iter=4, lr=0.5))
        for batch in batches(num_updates_before):
            accumulator.update(batch, loss_fn, micro_batch_size=8)
        calls = []

        def failing(model: nn.Module, batch: Any) -> Tensor:
            calls.append(1)
            if len(calls) == 11:
                raise ArithmeticError
            return loss_fn(model, batch)

        if is_failing:
            with pytest.raises(ArithmeticError):
                accumulator.update(batches(1)[0], failing, micro_batch_size=8)
        assert accumulator.num_updates == num_updates_before
        update = accumulator.update(batches(2)[1], loss_fn, micro_batch_size=8)
        return state_of(model, [update])

    assert_same(run(is_failing=True), run(is_failing=False))


def test_an_evaluation_that_is_not_finite_skips_the_update() -> None:
    model = network(Fault(), is_stateful=False)
    accumulator = gradledger.Accumulator(
        model, torch.optim.LBFGS(model.parameters(), max_iter=4), non_finite="skip-update"
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    calls = []

    def exploding(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return loss_fn(model, batch) * (torch.inf if len(calls) > 4 else 1.0)

    update = accumulator.update(batches(1)[0], exploding, micro_batch_size=8)
    assert update.skipped
    assert len(calls) == 8
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert accumulator.num_updates == 0


def test_every_evaluation_leaves_out_the_micro_batch_that_is_not_finite() -> None:
    def run(batch: tuple[Tensor, Tensor], **options: Any) -> tuple[list[Tensor], gradledger.Window]:
        model = network(Fault(), is_stateful=False)
        accumulator = gradledger.Accumulator(model, torch.optim.LBFGS(model.parameters(), max_iter=4), **options)
        update = accumulator.update(batch, loss_fn, micro_batch_size=8)
        return list(model.parameters()), update

    inputs, labels = batches(1)[0]
    bad = inputs.clone()
    bad[9] = torch.nan
    found, update = run((bad, labels), non_finite="drop-micro-batch")
    kept = torch.tensor([at for at in range(32) if not 8 <= at < 16])
    expected, _ = run((inputs[kept], labels[kept]))
    assert (update.num_dropped, update.weight) == (1, 24.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# Coupled losses


class Towers(nn.Module):
    def __init__(self, query: Fault, document: Fault) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), query, nn.Linear(8, 4))
        self.document = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), document, nn.Linear(8, 4))


def train_coupled(query: Fault, document: Fault, sizes: dict[str, int], loss_fault: int = -1) -> Any:
    torch.manual_seed(3)
    model = Towers(query, document)
    accumulator = gradledger.Accumulator(model, torch.optim.Adam(model.parameters(), lr=0.01))
    losses = []

    def contrastive(model: nn.Module, z: dict[str, Tensor], batch: Any) -> Tensor:
        losses.append(1)
        if len(losses) - 1 == loss_fault:
            raise torch.OutOfMemoryError("out of memory")
        return nn.functional.cross_entropy(z["query"] @ z["document"].T, torch.arange(16))

    encode = {"query": lambda m, x: m.query(x), "document": lambda m, x: m.document(x)}
    torch.manual_seed(7)
    windows = []
    for x, _ in batches(2):
        batch = {"query": x[:16], "document": x[16:]}
        windows.append(accumulator.update_coupled(batch, encode, contrastive, micro_batch_size=sizes))
    return state_of(model, windows)


@pytest.mark.usefixtures("_quick")
def test_a_coupled_update_recovers_in_both_passes_and_in_the_loss() -> None:
    sizes, halved = {"query": 8, "document": 16}, {"query": 4, "document": 8}
    query = train_coupled(Fault(), Fault(), {**sizes, "query": halved["query"]})
    for direction, position in [("forward", 0), ("forward", 1), ("forward", 2), ("backward", 0), ("backward", 1)]:
        assert_same(train_coupled(Fault(direction, position), Fault(), sizes), query)
    document = train_coupled(Fault(), Fault(), {**sizes, "document": halved["document"]})
    for direction in ("forward", "backward"):
        assert_same(train_coupled(Fault(), Fault(direction, 0), sizes), document)
    assert_same(train_coupled(Fault(), Fault(), sizes, loss_fault=0), document)  # whose last graph is kept meanwhile


def test_a_coupled_sample_that_does_not_fit_is_explained() -> None:
    with pytest.raises(DoesNotFitError, match="micro-batch of 1 sample"):
        train_coupled(Fault(), Fault(above=0), {"query": 8, "document": 2})
