"""A run that was stopped anywhere and gone on with comes to what it would have come to, bit by bit."""

import random
import re
import signal

import numpy
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from gradledger import UserError
from gradledger.engine.memory.measuring import Bench
from gradledger.train.checkpoint.layout import checkpoints_in
from gradledger.train.data import Data
from train.stopping import Stopper, came_to, small_data, start

SETTINGS = (
    "model=train.stopping:Net", "micro_batch_size=4", "steps=3", "epochs=3", "optimizer=adamw", "optimizer.lr=0.05",
    "scheduler=cosine", "clip_norm=0.5",
)  # fmt: skip
"""12 micro-batches an epoch, the last one of 2 samples: 4 updates."""


def whole(output, *overrides, **options):
    run, _ = start(output, (*SETTINGS, *overrides), **options)
    stopper = Stopper(run)
    assert run.train().exit == "finished"
    return came_to(run, output), stopper.num_events


def stopped_and_resumed(output, events, *overrides, **options):
    """Stop at each of the events in turn (counted anew in each process), and go on to the end."""
    exits, resume = [], None
    for event in (*events, None):
        run, state = start(output, (*SETTINGS, *overrides), resume, **options)
        Stopper(run, event)
        exits.append(run.train(state).exit)
        resume = "auto"
    assert exits[-1] == "finished"
    return came_to(run, output), exits[:-1]


def test_fifty_random_points_go_on_bitwise(tmp_path):
    expected, num_events = whole(tmp_path / "whole")
    assert num_events == 3 * (12 + 4 + 3) + 12
    chooser = random.Random(0)
    inside = 0
    for number, event in enumerate(sorted(chooser.sample(range(1, num_events), 50))):
        output = tmp_path / str(number)
        run, _ = start(output, (*SETTINGS, "checkpoint_every=null"))
        Stopper(run, event)
        assert run.train().exit == "terminated"
        inside += "micro-batch" in checkpoints_in(output / "run" / "checkpoints")[-1].name
        again, state = start(output, (*SETTINGS, "checkpoint_every=null"), "auto")
        assert again.train(state).exit == "finished"
        weights, metrics, ledger = came_to(again, output)
        assert (weights, ledger) == (expected[0], expected[2]), event
        assert metrics == expected[1], event
    assert inside >= 15


@pytest.mark.parametrize(
    "overrides",
    [
        ("tail=carry",),
        ("tail=drop", "scheduler=plateau"),
        ("model.name=mlp", "model.hidden=[4,4]", "checkpointing=true", "offload=cpu"),
        ("precision=16-mixed", "non_finite=skip-update"),
        ("non_finite=drop-micro-batch", "checkpoint_every=1"),
        ("optimizer=sgd", "optimizer.momentum=0.9", "scheduler=one-cycle", "checkpoint_every=2"),
    ],
    ids=" ".join,
)
def test_stopped_three_times(tmp_path, overrides):
    expected, num_events = whole(tmp_path / "whole", *overrides)
    chooser = random.Random(str(overrides))
    for number in range(3):
        events = [chooser.randint(1, num_events // 3) for _ in range(3)]
        found, exits = stopped_and_resumed(tmp_path / str(number), events, *overrides)
        assert exits == ["terminated"] * 3
        assert found == expected, events


class Jittered(Dataset):
    """Samples with random noise: read in the training process or by workers."""

    def __init__(self, num_samples):
        self.num_samples = num_samples

    def __len__(self):
        return self.num_samples

    def __getitem__(self, number):
        noise = torch.rand(5) + random.random() + numpy.random.random()
        return torch.full((5,), float(number % 7)) + 0.1 * noise, torch.tensor(number % 3)


class Stream(IterableDataset):
    def __iter__(self):
        for number in range(22):
            yield torch.full((5,), float(number % 7)) + 0.1 * torch.rand(5), torch.tensor(number % 3)


class PlainStream(IterableDataset):
    def __iter__(self):
        yield from ((torch.full((5,), float(number % 7)), torch.tensor(number % 3)) for number in range(22))


SETS = {
    "random samples": (Jittered(22), ()),
    "random samples of workers": (Jittered(22), ("num_workers=2",)),
    "a stream": (PlainStream(), ("scheduler=none",)),
    "a random stream of a worker": (Stream(), ("scheduler=none", "num_workers=1")),
}


@pytest.mark.parametrize("name", SETS)
def test_data_that_draw_random_numbers(tmp_path, name):
    train, overrides = SETS[name]
    data = Data("classification", train, small_data().validation, 3, ("a", "b", "c"), (5,))
    expected, num_events = whole(tmp_path / "whole", "epochs=2", *overrides, data=data)
    for number, event in enumerate((2, 4, num_events // 2 + 1, num_events - 9)):
        found, exits = stopped_and_resumed(tmp_path / str(number), [event], "epochs=2", *overrides, data=data)
        assert exits == ["terminated"]
        assert found == expected, event


def test_what_workers_draw_does_not_depend_on_their_number(tmp_path):
    data = Data("classification", Jittered(22), small_data().validation, 3, ("a", "b", "c"), (5,))
    one, two = (whole(tmp_path / str(n), "epochs=1", f"num_workers={n}", data=data)[0] for n in (1, 2))
    assert one == two


def test_a_checkpoint_on_request_changes_nothing(tmp_path):
    expected, _ = whole(tmp_path / "whole")
    run, _ = start(tmp_path, (*SETTINGS, "checkpoint_every=null"))
    run.setup.model.register_forward_pre_hook(lambda *_: signal.raise_signal(signal.SIGUSR1))
    assert run.train().exit == "finished"
    assert came_to(run, tmp_path) == expected
    latest = run.keeper.latest.name
    again, state = start(tmp_path, SETTINGS, str(tmp_path / "run" / "checkpoints" / latest))
    assert again.train(state).exit == "finished"
    assert came_to(again, tmp_path) == expected


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    run, _ = start(tmp_path, SETTINGS)

    def twice(*_):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    handler = run.setup.model.register_forward_pre_hook(twice)
    assert run.train().exit == "terminated"
    handler.remove()
    assert checkpoints_in(tmp_path / "run" / "checkpoints") == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_automatic_size_is_that_of_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    best = 4
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 if len(batch[0]) == best else 100.0)
    settings = (*(each for each in SETTINGS if "steps" not in each), "micro_batch_size=auto", "effective_batch_size=12")
    run, _ = start(tmp_path, settings)
    Stopper(run, 20)
    run.train()
    assert run.setup.config.micro_batch_size == 4
    best = 2
    (tmp_path / "cache").rename(tmp_path / "another machine")
    again, state = start(tmp_path, settings, "auto")
    assert again.setup.config.micro_batch_size == 4
    assert again.train(state).exit == "finished"
    assert came_to(again, tmp_path)[0] == whole(tmp_path / "whole")[0][0]


def test_another_configuration_is_refused(tmp_path):
    run, _ = start(tmp_path, SETTINGS)
    Stopper(run, 20)
    run.train()
    with pytest.raises(
        UserError, match=re.escape("run was begun with another configuration: clip_norm was 0.5 and is")
    ):
        start(tmp_path, (*SETTINGS, "clip_norm=1.0"), "auto")
    start(tmp_path, (*SETTINGS, "keep_checkpoints=9"), "auto")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clock", None, "KeyError: 'clock'"),
        ("of_rank", True, "TypeError: 'bool' object is not subscriptable"),
        ("passes", 5, "TypeError: 'int' object is not subscriptable"),
    ],
)
def test_a_state_with_other_parts_is_refused(tmp_path, key, value, message):
    run, _ = start(tmp_path, SETTINGS)
    Stopper(run, 5)
    run.train()
    again, state = start(tmp_path, SETTINGS, "auto")
    changed = {**state, key: value} if value is not None else {k: v for k, v in state.items() if k != key}
    with pytest.raises(UserError, match=re.escape(f"is not one that this program has written ({message})")):
        again.train(changed)
