"""States taken at any point, inside windows too, go on bitwise: parameters, losses, counters, ledger."""

import io
import random
import re

import numpy
import pytest
import torch
from torch import nn

from gradledger import Accumulator, UserError, tokens
from gradledger.ledger import entry_to_json

DROPOUT = 0.3


class Noisy(nn.Module):
    """Draws from every generator there is, so that each must be put back."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, inputs):
        hidden = nn.functional.dropout(self.norm(self.stem(inputs)).relu(), DROPOUT)
        return self.head(hidden) * (1 + 0.01 * random.random() + 0.01 * numpy.random.random())


def data(sizes=(4, 2, 3, 5, 4, 2, 3)):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, generator=generator), torch.randint(2, (n,), generator=generator)) for n in sizes]


class Loader:
    """Micro-batches whose reading draws random numbers, from a position that can be set, as a stateful loader's."""

    def __init__(self, batches, position=0):
        self.batches = batches
        self.position = position

    def __iter__(self):
        torch.rand(())  # as a DataLoader draws the seed of its workers
        return self._read()

    def _read(self):
        while self.position < len(self.batches):
            inputs, labels = self.batches[self.position]
            self.position += 1
            yield inputs + 0.01 * torch.rand(()), labels
        self.position = 0


def in_bytes(*state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def from_bytes(saved):
    """Read without running anything that a pickle may hold: the state must be tensors and plain data."""
    return torch.load(io.BytesIO(saved), weights_only=True)


class Training:
    """A model, its accumulator and its loader, as a script would make them."""

    def __init__(self, seed=0, **settings):
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed)
        self.model = self.make_model()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        self.accumulator = Accumulator(self.model, optimizer, scheduler=scheduler, **settings)
        self.loader = Loader(data())
        self.losses = []

    def make_model(self):
        return Noisy()

    def saved(self):
        """The state as bytes, and how many losses and ledger entries there were."""
        state = {
            "model": self.model.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "position": self.loader.position,
        }
        return in_bytes(state), len(self.losses), self.accumulator.ledger.num_recorded

    def load(self, saved):
        (state,) = from_bytes(saved)
        self.model.load_state_dict(state["model"])
        self.loader.position = state["position"]
        self.accumulator.load_state_dict(state["accumulator"])

    def train(self, passes=3, steps=3, tail="carry", save=lambda _: None, backward=None, **windows):
        """Goes on to the end of the given number of passes; ``save`` is called at every point that can be saved."""
        backward = backward or (lambda window, outputs, labels: window.backward(loss_of(outputs, labels)))
        save(self)
        while self.accumulator._num_epochs < passes:
            for window in self.accumulator.windows(self.loader, steps=steps, tail=tail, **windows):
                with window:
                    save(self)
                    for inputs, labels in window:
                        backward(window, self.model(inputs.to(self.model.head.weight.dtype)), labels)
                        save(self)
                self.losses.append(window.loss)
                save(self)
        return self

    def came_to(self):
        accumulator = self.accumulator
        return (
            {name: value.tolist() for name, value in self.model.state_dict().items()},
            repr(accumulator.optimizer.state_dict()),
            repr(accumulator.scheduler.state_dict()),
            (accumulator.num_updates, accumulator.num_micro_batches, accumulator.num_carried),
            dict(accumulator.totals),
            torch.get_rng_state().tolist(),
            (random.random(), numpy.random.random()),
        )


def loss_of(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels)


def written(training):
    return [entry_to_json(entry) for entry in training.accumulator.ledger]


def check_every_point(how=None, stride=1, kind=Training, **settings):
    """Go on from each point in a fresh training of another seed; all must come out as without saving, bitwise."""
    how = how or {}
    whole = kind(**settings).train(**how)
    losses, ledger, expected = whole.losses, written(whole), whole.came_to()
    saved = []
    kind(**settings).train(save=lambda training: saved.append(training.saved()), **how)
    assert len(saved) > 30
    for point, (state, num_losses, num_entries) in list(enumerate(saved))[::stride]:
        resumed = kind(seed=point + 1, **settings)
        resumed.load(state)
        resumed.train(**how)
        assert repr(losses[:num_losses] + resumed.losses) == repr(losses), point
        assert ledger[:num_entries] + written(resumed) == ledger, point
        assert resumed.came_to() == expected, point
    return whole


def test_every_point_of_a_run_goes_on_bitwise():
    check_every_point(clip_norm=0.5)


class Scaled(Training):
    """In half precision, with a scaler whose first factors are too large: those steps are skipped."""

    def __init__(self, seed=0):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=2)
        super().__init__(seed, precision="16-mixed", scaler=scaler, non_finite="skip-update")

    def came_to(self):
        return *super().came_to(), self.accumulator._precision.state_dict()


def test_with_a_gradient_scaler():
    whole = check_every_point(stride=3, kind=Scaled)
    assert 0 < whole.accumulator.num_updates < len(whole.losses)


def test_with_dropped_micro_batches():
    def backward(window, outputs, labels):
        loss = loss_of(outputs, labels)
        window.backward(loss * float("nan") if len(labels) == 5 else loss)

    check_every_point({"backward": backward}, stride=3, non_finite="drop-micro-batch")


def test_with_weights_that_come_late_and_pooled_statistics():
    def backward(window, outputs, labels):
        window.backward(loss_of(outputs, labels), weight=float(len(labels)) + 1)

    check_every_point({"backward": backward}, stride=3, batch_norm="pooled")


def test_with_several_terms_and_lengths():
    def backward(window, outputs, labels):
        window.backward(loss_of(outputs, labels), per="tokens", retain_graph=True)
        window.backward(outputs.square().mean(), per="samples")

    units = {"samples": None, "tokens": tokens(ignore_index=0)}
    how = {"backward": backward, "lengths": lambda batch: [3] * len(batch[1]), "token_budget": 18, "tail": "keep"}
    check_every_point(how, stride=3, weight=units)


class InBfloat16(Training):
    def __init__(self, seed=0):
        super().__init__(seed, precision="bf16-true", accumulate_dtype=torch.float32)

    def make_model(self):
        return Noisy().bfloat16()


def test_gradients_in_another_type_than_the_parameters():
    check_every_point(stride=3, kind=InBfloat16)


def two_accumulators(scaler=None):
    torch.manual_seed(0)
    nets = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 1)])
    settings = {} if scaler is None else {"precision": "16-mixed", "scaler": scaler}
    return nets, [
        Accumulator(nets, torch.optim.Adam(net.parameters(), lr=0.1), name=str(at), **settings)
        for at, net in enumerate(nets)
    ]


def train_two(nets, accumulators, batches, stop=None):
    """Both windows open at one time; each backward belongs to one of them. ``stop`` gives the states and ends it."""
    one, two = (accumulator.windows(each, steps=4) for accumulator, each in zip(accumulators, batches, strict=True))
    for first, second in zip(one, two, strict=True):
        with first, second:
            for (inputs, _), (others, _) in zip(first, second, strict=True):
                hidden = nn.functional.dropout(nets[0](inputs), 0.2)
                first.backward(nets[1](hidden).square().mean(), retain_graph=True)
                second.backward(nets[1](nets[0](others).detach()).cos().mean())
                stop = None if stop is None else stop - 1
                if stop == 0:
                    return in_bytes(nets.state_dict(), [accumulator.state_dict() for accumulator in accumulators])
    return None


@pytest.mark.parametrize("shares_scaler", [False, True])
def test_several_accumulators_with_open_windows(shares_scaler):
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**10) if shares_scaler else None

    batches = data((4,) * 8)
    whole, accumulators = two_accumulators(scaler())
    train_two(whole, accumulators, [batches, batches])
    for point in range(1, 9):
        nets, states = from_bytes(train_two(*two_accumulators(scaler()), [batches, batches], stop=point))
        resumed, others = two_accumulators(scaler())
        resumed.load_state_dict(nets)
        for accumulator, state in zip(others, states, strict=True):
            accumulator.load_state_dict(state)
        num_read = -(-point // 4) * 4
        train_two(resumed, others, [batches[num_read:], batches[num_read:]])
        assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), whole.parameters(), strict=True)), point


def test_a_scaler_that_waits_for_another_window_cannot_be_saved():
    nets, (first, second) = two_accumulators(torch.amp.GradScaler("cpu"))
    batches = data()
    with next(second.windows(batches, steps=1)) as other:
        for inputs, _ in other:
            other.backward(nets[1](nets[0](inputs)).square().mean())
            with next(first.windows(batches, steps=1)) as window:
                for inputs, _ in window:
                    window.backward(nets[1](nets[0](inputs)).square().mean())
            with pytest.raises(UserError, match="waits for the last of their open windows"):
                second.state_dict()


def refuses(message):
    return pytest.raises(UserError, match=re.escape(message))


def test_points_that_cannot_be_saved():
    training = Training()
    accumulator, windows = training.accumulator, training.accumulator.windows(training.loader, steps=2)
    with next(windows) as window:
        for _inputs, _ in window:
            with refuses("before the backward of micro-batch 0, whose forward cannot be saved"):
                accumulator.state_dict()
            break
    replayed = Accumulator(training.model, torch.optim.LBFGS(training.model.parameters()))
    with next(replayed.windows(training.loader, steps=2)) as window:
        window.replay(lambda model, batch: loss_of(model(batch[0]), batch[1]))
        with refuses("inside a window that is replayed"):
            replayed.state_dict()


def mid_window_state(**settings):
    training = Training(**settings)
    with next(training.accumulator.windows(training.loader, steps=3)) as window:
        for inputs, labels in window:
            window.backward(loss_of(training.model(inputs), labels))
            return training.accumulator.state_dict()
    raise AssertionError("unreachable")


def test_open_windows_that_do_not_fit():
    state = mid_window_state()
    other = nn.Linear(7, 2)
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.05)
    accumulator = Accumulator(other, optimizer, scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12))
    with refuses("a gradient of shape (8, 3) for parameter 0 of the optimizer, which has shape (2, 7) there"):
        accumulator.load_state_dict(state)
    with refuses("was begun without non_finite='drop-micro-batch', unlike this accumulator"):
        Training(non_finite="drop-micro-batch").accumulator.load_state_dict(state)
    with refuses("was begun with batch_norm='pooled', unlike this accumulator"):
        Training().accumulator.load_state_dict(mid_window_state(batch_norm="pooled"))
    loaded = Training().accumulator
    loaded.load_state_dict(state)
    assert loaded.state_dict()["window"] is state["window"]  # it still waits
    with refuses("the loaded state has an open window, which comes before any other"):
        loaded.update(data()[0], lambda model, batch: loss_of(model(batch[0]), batch[1]), micro_batch_size=2)
    with next(loaded.windows(data(), steps=2)), refuses("load_state_dict() was called inside an open window"):
        loaded.load_state_dict(state)


def test_a_state_that_is_gone_on_from_twice_is_not_changed_by_training():
    state, results = mid_window_state(), []
    for _ in range(2):
        training = Training()
        training.accumulator.load_state_dict(state)
        training.loader.position = 3
        with next(training.accumulator.windows(training.loader, steps=3)) as window:
            for inputs, labels in window:
                window.backward(loss_of(training.model(inputs), labels))
        results.append([parameter.tolist() for parameter in training.model.parameters()])
    assert results[0] == results[1]
