"""Splitting: what belongs to a sample, what to the whole batch, and what cannot be told."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradledger
from gradledger.engine.batches.splitting import read_samples
from gradledger.errors import UserError

Pair = namedtuple("Pair", ["inputs", "labels"])


@dataclass
class Example:
    inputs: Tensor
    name: str
    mask: Tensor | None = None


def pieces_of(batch: Any, size: int, **options: Any) -> list[Any]:
    return [piece.micro_batch() for piece in read_samples(batch, **options).cut(size)]


x = torch.arange(10.0).reshape(5, 2)
y = torch.arange(5)


@pytest.mark.parametrize(
    ("batch", "read"),
    [
        (x, lambda b: b),
        ((x, y), lambda b: b[0]),
        ([x, y], lambda b: b[0]),
        (Pair(x, y), lambda b: b.inputs),
        ({"deep": [{"x": x}, (x, None)]}, lambda b: b["deep"][0]["x"]),
        (Example(x, "name"), lambda b: b.inputs),
    ],
)
def test_each_sample_is_in_one_micro_batch_in_order(batch: Any, read: Any) -> None:
    pieces = pieces_of(batch, 2)
    assert all(type(piece) is type(batch) for piece in pieces)
    assert [len(read(piece)) for piece in pieces] == [2, 2, 1]
    torch.testing.assert_close(torch.cat([read(piece) for piece in pieces]), x)


def test_what_belongs_to_the_whole_batch_is_kept_whole() -> None:
    batch = {"x": x, "temperature": torch.tensor(2.0), "note": "abcde", "none": None, "flag": True, "of": ["a", "b"]}
    for piece in pieces_of(batch, 2):
        assert {key: piece[key] for key in batch if key != "x"} == {key: batch[key] for key in batch if key != "x"}


def test_lists_of_samples_are_split_by_item() -> None:
    ragged = [torch.full((length,), float(length)) for length in (3, 1, 4, 1, 5)]
    batch = {"tokens": ragged, "labels": y, "text": list("abcde"), "boxes": [{"box": torch.zeros(i, 4)} for i in y]}
    first, second, last = pieces_of(batch, 2)
    assert [len(tokens) for tokens in first["tokens"] + second["tokens"] + last["tokens"]] == [3, 1, 4, 1, 5]
    assert (first["text"], last["text"], len(second["boxes"]), last["labels"].tolist()) == (["a", "b"], ["e"], 2, [4])
    assert [len(piece) for piece in pieces_of(ragged, 3)] == [3, 2]
    assert [len(piece) for piece in pieces_of(list("abcde"), 3)] == [3, 2]


def test_text_that_a_loader_collates_into_a_tuple_goes_with_its_samples() -> None:
    loader = torch.utils.data.DataLoader([(x[at], f"sample {at}") for at in range(5)], batch_size=5)
    pieces = pieces_of(next(iter(loader)), 2)
    assert [piece[1] for piece in pieces] == [("sample 0", "sample 1"), ("sample 2", "sample 3"), ("sample 4",)]
    assert pieces_of({"x": x[:2], "size": (224, 224)}, 1)[0]["size"] == (224, 224)


def test_samples_in_tuples_are_split_where_nothing_else_agrees() -> None:
    samples = [(torch.zeros(3, 4 + at, 4), {"boxes": torch.full((at + 1, 4), float(at))}) for at in range(5)]
    first, second = pieces_of(tuple(zip(*samples, strict=True)), 3)
    assert (type(first), type(first[0]), len(first[0]), len(second[1])) == (tuple, tuple, 3, 2)
    assert [len(target["boxes"]) for target in first[1] + second[1]] == [1, 2, 3, 4, 5]
    beside = {"x": x, "boxes": tuple(torch.zeros(at + 1, 4) for at in range(5))}
    assert [len(piece["boxes"]) for piece in pieces_of(beside, 2)] == [2, 2, 1]


def test_containers_that_are_made_of_something_else_keep_their_type() -> None:
    class Fields(list[Tensor]):
        def __init__(self, inputs: Tensor, labels: Tensor) -> None:
            super().__init__([inputs, labels])

    for batch in (Fields(x, y), defaultdict(list, {0: x, 1: y}), OrderedDict({0: x, 1: y})):
        pieces = pieces_of(batch, 2)
        assert [type(piece) for piece in pieces] == [type(batch)] * 3
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), y)
    assert pieces_of(defaultdict(list, {0: x}), 2)[0]["nothing"] == []


def test_sparse_samples_are_split() -> None:
    pieces = pieces_of({"x": torch.eye(5).to_sparse(), "y": y}, 2)
    assert torch.equal(torch.cat([piece["x"] for piece in pieces]).to_dense(), torch.eye(5))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_layout_without_rows_is_named() -> None:
    with pytest.raises(UserError, match=r"batch\['x'\] cannot be split: its layout is torch.sparse_csr"):
        read_samples({"y": y, "x": torch.eye(5).to_sparse_csr()})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_arrays_and_nested_tensors_are_split() -> None:
    assert [len(piece["a"]) for piece in pieces_of({"a": np.zeros((5, 3)), "x": x}, 2)] == [2, 2, 1]
    for layout in (torch.strided, torch.jagged):
        components = [torch.full((length, 2), float(length)) for length in (3, 1, 4)]
        nested = torch.nested.as_nested_tensor(components, layout=layout)
        one, two = pieces_of((nested, y[:3]), 2)
        assert [len(part) for part in (*one[0].unbind(), *two[0].unbind())] == [3, 1, 4]
        assert one[0].layout == layout


def test_hugging_face_encodings_and_outputs_keep_their_type() -> None:
    from transformers import BatchEncoding
    from transformers.modeling_outputs import BaseModelOutput

    for batch in (BatchEncoding({"input_ids": x}), BaseModelOutput(last_hidden_state=x)):
        pieces = pieces_of(batch, 2)
        assert [type(piece) for piece in pieces] == [type(batch)] * 3
        key = next(iter(batch))
        torch.testing.assert_close(torch.cat([piece[key] for piece in pieces]), x)


def test_pieces_are_views_and_can_be_cut_again() -> None:
    whole = read_samples((x, y))
    second = whole.cut(2)[1]
    assert second.micro_batch()[0].data_ptr() == x[2:].data_ptr()
    assert [piece.micro_batch()[1].tolist() for piece in second.cut(1)] == [[2], [3]]
    assert whole.pick([4, 0]).micro_batch()[1].tolist() == [4, 0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"x": x, "y": y, "mask": torch.zeros(1, 2)},
            r"batch\['mask'\] cannot be split: its first dimension is 1 .* 5",
        ),
        ((x, y, [torch.zeros(2), torch.zeros(3)]), r"disagree .*batch\[0\] has 5.* batch\[2\]\[1\] has 3|batch\[2\]"),
        ({"x": torch.zeros(()), "k": 3}, "no tensor with a leading dimension"),
        (torch.zeros(0, 3), "0 samples"),
        ([torch.zeros(3)] * 6, "6 samples or 6 fields"),
    ],
)
def test_what_cannot_be_split_is_named(batch: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_samples(batch)


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "many"])
def test_a_size_is_a_whole_number(size: Any) -> None:
    model = nn.Linear(2, 1)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UserError, match="must be a whole number of samples"):
        accumulator.update(x, lambda m, b: m(b).mean(), micro_batch_size=size)


def gradient_of(batch: Any, loss_fn: Any, **options: Any) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(2, 1, dtype=torch.float64)
    before = model.weight.detach().clone()
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=1.0))
    update = accumulator.update(batch, loss_fn, **options)
    assert update.weight == 5
    return before - model.weight.detach()


def test_ragged_samples_count_as_samples_even_alone_and_with_equal_lengths() -> None:
    ragged = [torch.randn(length, 2, dtype=torch.float64) for length in (3, 3, 4, 4, 5)]

    def loss_fn(model: nn.Module, samples: list[Tensor]) -> Tensor:
        return torch.stack([model(sample).square().mean() for sample in samples]).mean()

    whole = gradient_of(ragged, loss_fn, micro_batch_size=5)
    for size in (1, 2, 4):
        torch.testing.assert_close(gradient_of(ragged, loss_fn, micro_batch_size=size), whole)


def test_a_split_of_the_user_is_used_and_counted() -> None:
    class Graphs:
        def __init__(self, parts: list[Tensor]) -> None:
            self.parts = parts

    def split(graphs: Graphs, size: int) -> list[Graphs]:
        return [Graphs(graphs.parts[at : at + size]) for at in range(0, len(graphs.parts), size)]

    def loss_fn(model: nn.Module, graphs: Graphs) -> Tensor:
        return torch.stack([model(part).square().mean() for part in graphs.parts]).mean()

    graphs = Graphs(list(torch.randn(5, 3, 2, dtype=torch.float64)))
    whole = gradient_of(graphs, loss_fn, micro_batch_size=5, split=split)
    torch.testing.assert_close(gradient_of(graphs, loss_fn, micro_batch_size=2, split=split), whole)
    with pytest.raises(UserError, match="gave no micro-batch"):
        gradient_of(graphs, loss_fn, micro_batch_size=2, split=lambda *_: [])
    with pytest.raises(UserError, match="gave a Graphs, not micro-batches"):
        gradient_of(graphs, loss_fn, micro_batch_size=2, split=lambda graphs, size: graphs)
    with pytest.raises(UserError, match="must be callable"):
        gradient_of(graphs, loss_fn, micro_batch_size=2, split="half")


def test_micro_batches_are_moved_one_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradledger.engine.batches import staging

    events: list[str] = []

    def move(batch: Tensor, device: torch.device) -> Tensor:
        events.append(f"move {int(batch[0, 0]) // 4}")
        return batch.to(device)

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        events.append(f"compute {int(batch[0, 0]) // 4}")
        return model(batch).mean()

    monkeypatch.setattr(staging, "to_device", move)
    model = nn.Linear(2, 1)
    accumulator = gradledger.Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), device="cpu")
    accumulator.update(x, loss_fn, micro_batch_size=2)
    expected = ["move 0", "move 1", "compute 0", "move 2", "compute 1", "compute 2"]
    assert events == expected
    events.clear()
    for window in accumulator.windows(x.split(2), steps=3):
        with window:
            for batch in window:
                window.backward(loss_fn(model, batch))
    assert events == expected
