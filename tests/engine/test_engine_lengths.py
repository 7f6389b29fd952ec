"""Lengths: fewer micro-batches with less padding, under a hard cap, for the same gradient."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradledger
from gradledger.engine.batches.lengths import ByTokens, read_padded_samples
from gradledger.engine.memory import sizing
from gradledger.errors import UserError

PAD = 7
VOCABULARY = 11


class Reader(nn.Module):
    """Every token sees the mean over the real tokens of its sample, so that a wrong mask would be noticed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(VOCABULARY, 6, dtype=torch.float64)
        self.head = nn.Linear(12, VOCABULARY, dtype=torch.float64)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.shapes.append(tuple(ids.shape))
        values = self.embedding(ids) * mask[..., None]
        mean = values.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
        return self.head(torch.cat([values, mean.expand_as(values)], dim=-1))


def batch_of(lengths: list[int], seed: int = 0, width: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(VOCABULARY, (len(lengths), width), generator=generator).masked_fill(~mask, PAD)
    labels = torch.randint(VOCABULARY, (len(lengths), width), generator=generator).masked_fill(~mask, -100)
    return {"ids": ids, "labels": labels, "mask": mask, "positions": torch.arange(width).expand(len(lengths), -1)}


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["ids"], batch["mask"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)


def count_tokens(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"] != -100).sum()


def lengths_of(batch: dict[str, Tensor]) -> Tensor:
    return batch["mask"].sum(1)


def updated(make: Any) -> tuple[Tensor, Reader, Any]:
    model = Reader()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=1.0), weight=count_tokens)
    window = make(accumulator)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), model, window


some_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)


@settings(max_examples=40, deadline=None)
@given(some_lengths, st.integers(0, 30), st.sampled_from([None, 1, 4]))
def test_the_update_is_that_of_the_whole_batch_under_a_hard_cap(lengths: list[int], extra: int, bucket: Any) -> None:
    batch = batch_of(lengths)
    budget = -(-max(lengths) // (bucket or 1)) * (bucket or 1) + extra
    whole, _, _ = updated(lambda a: a.update(batch, loss_fn, micro_batch_size=len(lengths)))
    ours, model, window = updated(
        lambda a: a.update(batch, loss_fn, lengths=lengths, token_budget=budget, length_bucket=bucket)
    )
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)
    assert all(rows * width <= budget for rows, width in model.shapes)
    assert sum(rows for rows, _ in model.shapes) == len(lengths)
    assert window.weight == sum(lengths)


def fewest(lengths: list[int], budget: int) -> int:
    """By trying every way to share the samples out."""
    for count in range(1, len(lengths) + 1):
        for places in product(range(count), repeat=len(lengths)):
            groups = [
                [at for at, place in zip(lengths, places, strict=True) if place == group] for group in range(count)
            ]
            if all(len(group) * max(group, default=0) <= budget for group in groups):
                return count
    raise AssertionError


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(9, 24))
def test_there_is_no_way_with_fewer_micro_batches(lengths: list[int], budget: int) -> None:
    samples = read_padded_samples(batch_of(lengths), lengths)
    assert len(ByTokens().cut(samples, budget)) == fewest(lengths, budget)


def test_buckets_leave_few_shapes() -> None:
    lengths = torch.randint(1, 100, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = batch_of(lengths)

    def shapes(bucket: int | None) -> set[tuple[int, ...]]:
        samples = read_padded_samples(batch, lengths, bucket)
        return {tuple(piece.micro_batch()["ids"].shape) for piece in ByTokens().cut(samples, 512)}

    assert len(shapes(32)) <= 5 < len(shapes(None))


def test_a_window_over_a_loader_is_shared_out_anew() -> None:
    loader = [batch_of([3, 9]), batch_of([1, 8], 1), batch_of([2, 2], 2, width=6), batch_of([9, 1], 3)]

    def pass_over(accumulator: gradledger.Accumulator, **options: Any) -> Any:
        rows = []
        for window in accumulator.windows(loader, steps=4, **options):
            with window:
                for batch in window:
                    window.backward(loss_fn(accumulator.model, batch))
                    rows.append(lengths_of(batch))
        return window, rows

    plain, _, _ = updated(pass_over)
    options = {"lengths": lengths_of, "padding": {"ids": PAD, "labels": -100, "mask": 0, "positions": 0}}
    ours, model, (window, rows) = updated(lambda a: pass_over(a, **options))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    assert window.num_micro_batches == 3
    assert max(rows * width for rows, width in model.shapes) <= 18  # what the loader's own largest has
    assert [int(row) for row in window.in_order(rows)] == [3, 9, 1, 8, 2, 2, 9, 1]
    with pytest.raises(UserError, match="2 rows, but the window 8 samples"):
        window.in_order(rows[:1] if len(rows[0]) == 2 else [rows[0][:2]])


def test_a_padding_value_is_seen_or_asked_for() -> None:
    seen = [batch_of([3, 9]), batch_of([1, 8], 1)]
    unseen = [{"ids": torch.zeros(2, width, dtype=torch.long)} for width in (3, 4)]
    model = Reader()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=1.0), weight=count_tokens)
    (window,) = accumulator.windows(seen, steps=2, lengths=lengths_of, token_budget=100)
    with window:
        (batch,) = window
        assert batch["ids"][:, -1].tolist() == [int(seen[0]["ids"][1, 8]), PAD, PAD, PAD]
        window.backward(loss_fn(model, batch))
    with pytest.raises(UserError, match=r"batch\['ids'\] has to be padded, .*give padding="):
        next(accumulator.windows(unseen, steps=2, lengths=lambda b: [b["ids"].size(1)] * 2))


def test_ragged_lists_and_square_masks_are_shared_out_too() -> None:
    ragged = [torch.full((length,), length) for length in (3, 1, 4)]
    pieces = ByTokens().cut(read_padded_samples(ragged, [3, 1, 4]), 8)
    assert [[len(sample) for sample in piece.micro_batch()] for piece in pieces] == [[4, 3], [1]]
    batch = {"ids": torch.zeros(3, 4, dtype=torch.long), "mask": torch.ones(3, 1, 4, 4), "features": torch.ones(3, 5)}
    piece = ByTokens().cut(read_padded_samples(batch, [3, 1, 2]), 3)[0].micro_batch()
    assert {name: tuple(leaf.shape) for name, leaf in piece.items()} == {
        "ids": (1, 3),
        "mask": (1, 1, 3, 3),
        "features": (1, 5),
    }


def test_auto_measures_tokens_and_recovers_by_halving_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [8, 7, 6, 6, 3, 2, 1, 1]
    batch = batch_of(lengths)
    whole, _, _ = updated(lambda a: a.update(batch, loss_fn, micro_batch_size=8))
    measured: list[int] = []
    measure = sizing._measure
    monkeypatch.setattr(sizing, "_measure", lambda *a: (measured.append(a[-1]), measure(*a))[1])
    ours, _, _ = updated(lambda a: a.update(batch, loss_fn, lengths=lengths, cache=False))
    assert measured[:3] == [8, 16, 32]
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)

    def limited(model: nn.Module, micro_batch: dict[str, Tensor]) -> Tensor:
        if micro_batch["ids"].numel() > 16:
            raise torch.OutOfMemoryError("out of memory")
        return loss_fn(model, micro_batch)

    ours, model, _ = updated(lambda a: a.update(batch, limited, lengths=lengths, token_budget=64))
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)
    assert max(rows * width for rows, width in model.shapes) <= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [3, 2]}, "3 whole numbers, one for each sample"),
        ({"lengths": [3, 2, 1.5]}, "3 whole numbers"),
        ({"lengths": [3, 9, 2], "token_budget": 8}, "sample 1 makes a micro-batch of 9 tokens .* token_budget=8"),
        ({"lengths": [3, 9, 2], "token_budget": 0}, "token_budget=0 must be a whole number"),
        ({"lengths": [3, 9, 2], "length_bucket": 0}, "length_bucket=0 must be a whole number"),
        ({"lengths": [3, 9, 2], "micro_batch_size": 2}, "leave out micro_batch_size= and split="),
        ({"token_budget": 8}, "need lengths="),
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        updated(lambda a: a.update(batch_of([3, 9, 2]), loss_fn, **options))


def test_padding_on_the_left_is_noticed() -> None:
    batch = {name: leaf.flip(1) for name, leaf in batch_of([3, 9, 2]).items()}
    with pytest.raises(UserError, match=r"batch\['ids'\] holds values beyond .* padded on the left"):
        updated(lambda a: a.update(batch, loss_fn, lengths=[3, 9, 2], token_budget=100))
    with pytest.raises(UserError, match="callable on a micro-batch"):
        updated(lambda a: a.windows([batch], steps=1, lengths=[3, 9, 2]))
