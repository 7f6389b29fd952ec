"""Which micro-batches make a window: steps, effective batch sizes, tails, and how far the loader is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradledger import Accumulator, num_updates


def make():
    model = nn.Linear(1, 1)
    return Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))


def use(accumulator, window):
    with window:
        seen = []
        for micro_batch in window:
            seen.append(int(micro_batch[0, 0]))
            window.backward(accumulator.model(micro_batch).mean())
    return seen


def numbered(count, size=2, start=0):
    return [torch.full((size, 1), float(start + i)) for i in range(count)]


def passes(accumulator, loaders, **how):
    return [[use(accumulator, window) for window in accumulator.windows(loader, **how)] for loader in loaders]


def test_tails():
    data = numbered(7)
    assert passes(make(), [data], steps=3) == [[[0, 1, 2], [3, 4, 5], [6]]]
    assert passes(make(), [data], steps=3, tail="drop") == [[[0, 1, 2], [3, 4, 5]]]
    carrying = make()
    assert passes(carrying, [data, data], steps=3, tail="carry") == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 0, 1], [2, 3, 4]],
    ]
    assert carrying.num_carried == 2
    assert passes(carrying, [data], steps=3, tail="keep") == [[[5, 6, 0], [1, 2, 3], [4, 5, 6]]]
    assert carrying.num_carried == 0


def test_a_loader_shorter_than_a_window():
    assert passes(make(), [numbered(2)], steps=4) == [[[0, 1]]]
    assert passes(make(), [numbered(2)], steps=4, tail="drop") == [[]]
    assert passes(make(), [[]], steps=4) == [[]]


def test_effective_batch_size_counts_samples():
    data = [*numbered(3, size=16), *numbered(1, size=8, start=3), *numbered(2, size=16, start=4)]
    assert passes(make(), [data], effective_batch_size=32) == [[[0, 1], [2, 3, 4], [5]]]


def test_steps_may_depend_on_the_update():
    accumulator = make()
    assert passes(accumulator, [numbered(7)], steps=lambda update: update + 1) == [[[0], [1, 2], [3, 4, 5], [6]]]


def test_a_window_reads_no_further_than_itself():
    read = []

    def loader():
        for micro_batch in numbered(7):
            read.append(int(micro_batch[0, 0]))
            yield micro_batch

    accumulator = make()
    for number, window in enumerate(accumulator.windows(loader(), steps=3)):
        assert len(read) == min(3 * (number + 1), 7)
        use(accumulator, window)
        assert len(read) == min(3 * (number + 1), 7)


@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 4), st.sampled_from(["keep", "drop", "carry"]))
def test_num_updates_is_what_windows_make(num_micro_batches, steps, epochs, tail):
    accumulator = make()
    made = passes(accumulator, [numbered(num_micro_batches)] * epochs, steps=steps, tail=tail)
    assert num_updates(num_micro_batches, steps=steps, epochs=epochs, tail=tail) == sum(map(len, made))
    used = sum(len(window) for each in made for window in each)
    assert accumulator.num_micro_batches == used
    assert accumulator.num_carried == (num_micro_batches * epochs - used if tail == "carry" else 0)


def test_num_updates_takes_a_loader_and_a_schedule():
    loader = torch.utils.data.DataLoader(range(10), batch_size=2)
    assert num_updates(loader, steps=2, epochs=3) == 9
    assert num_updates(7, steps=lambda update: update + 1) == 4


def test_epochs_are_marked_with_their_length():
    accumulator = make()
    passes(accumulator, [numbered(3), iter(numbered(2))], steps=2)
    marks = [entry for entry in accumulator.ledger if entry.letter == "("]
    assert [(mark.epoch, mark.num_micro_batches) for mark in marks] == [(0, 3), (1, None)]


def test_a_loader_over_a_stream_has_no_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(numbered(3))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=None)
    accumulator = make()
    assert passes(accumulator, [loader], steps=2) == [[[0, 1], [2]]]
    assert next(iter(accumulator.ledger)).num_micro_batches is None


def test_micro_batches_are_moved_to_the_device():
    model = nn.Linear(1, 1, device="meta")
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1), device="meta")
    with pytest.raises(KeyError), next(accumulator.windows(numbered(2), steps=2)) as window:
        for micro_batch in window:
            assert micro_batch.device.type == "meta"
            raise KeyError
