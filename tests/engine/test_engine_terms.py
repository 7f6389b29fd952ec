"""Weights and terms: the losses that people train with, each with its own denominator, against the whole batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.oracle import relative_distance, train_on_whole_batches
from gradledger import Accumulator, class_weights, elements, tokens

SIZES = (3, 1, 4, 2, 2)
NUM_CLASSES = 5


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, NUM_CLASSES)).double()


def sequences(seed=1, ignored=0.4):
    """Micro-batches of (inputs [n, t, 4], labels [n, t]) with a part of the labels ignored; one all ignored."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in SIZES:
        labels = torch.randint(NUM_CLASSES, (size, 7), generator=generator)
        labels[torch.rand(size, 7, generator=generator) < ignored] = -100
        made.append((torch.randn(size, 7, 4, generator=generator).double(), labels))
    made[1][1].fill_(-100)
    return made


def labelled(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 4, generator=generator).double(), torch.randint(NUM_CLASSES, (n,), generator=generator))
        for n in SIZES
    ]


def token_loss(model, inputs, labels):
    return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())


CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0]).double()
POS_WEIGHT = torch.tensor(3.0).double()
CASES = {
    "tokens": (sequences, token_loss, tokens()),
    "class weights": (
        labelled,
        lambda m, x, y: F.cross_entropy(m(x), y, weight=CLASS_WEIGHTS),
        class_weights(CLASS_WEIGHTS),
    ),
    "label smoothing": (labelled, lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.1), None),
    "regression": (labelled, lambda m, x, y: F.mse_loss(m(x).mean(1), y.double()), elements()),
    "bce with pos_weight": (
        labelled,
        lambda m, x, y: F.binary_cross_entropy_with_logits(m(x)[:, 0], (y > 2).double(), pos_weight=POS_WEIGHT),
        None,
    ),
    "a number": (labelled, lambda m, x, y: m(x).square().mean(), lambda batch: len(batch[1])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("late", [False, True], ids=["ahead", "late"])
def test_each_denominator_gives_the_whole_batch(case, late):
    make_data, loss_fn, weight = CASES[case]
    ours, theirs = make_model(), make_model()
    made = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0], weight=weight, clip_norm=1.0)
    data = make_data()
    losses = []
    for _ in range(3):
        for window in accumulator.windows(data, steps=3):
            with window:
                for batch in window:
                    count = (weight or (lambda b: len(b[1])))(batch)
                    window.backward(loss_fn(ours, *batch), weight=count if late else None)
            losses.append(window.loss)
    expected = train_on_whole_batches(theirs, made[1], [data[:3], data[3:]] * 3, loss_fn, clip_norm=1.0)
    assert relative_distance(ours, theirs) <= 1e-12
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-12)


def test_sums_are_divided_by_the_total():
    ours, theirs = make_model(), make_model()
    made = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0], weight=tokens())
    data = sequences()
    for late in (False, True):
        for window in accumulator.windows(data, steps=5):
            with window:
                for inputs, labels in window:
                    loss = F.cross_entropy(ours(inputs).flatten(0, 1), labels.flatten(), reduction="sum")
                    count = (labels != -100).sum() if late else None
                    window.backward(loss, weight=count, reduction="sum")
    train_on_whole_batches(theirs, made[1], [data] * 2, token_loss)
    assert relative_distance(ours, theirs) <= 1e-12


def test_terms_with_their_own_denominators_and_a_constant():
    ours, theirs = make_model(), make_model()
    made = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0], weight={"tokens": tokens(), "samples": lambda batch: len(batch[1])})
    data = sequences()

    def penalty(model):
        return 0.01 * sum(p.square().sum() for p in model.parameters())

    def whole(model, inputs, labels):
        return token_loss(model, inputs, labels) + 0.3 * model(inputs).square().sum((1, 2)).mean() + penalty(model)

    for window in accumulator.windows(data, steps=5):
        with window:
            for at, (inputs, labels) in enumerate(window):
                window.backward(token_loss(ours, inputs, labels), per="tokens")
                window.backward(0.3 * ours(inputs).square().sum((1, 2)).mean(), per="samples")
                if at == 0:
                    window.backward(penalty(ours), per="window")
    expected = train_on_whole_batches(theirs, made[1], [data], whole)
    assert relative_distance(ours, theirs) <= 1e-12
    assert window.loss == pytest.approx(expected[0][0], rel=1e-12)
    assert window.weights == {"tokens": float(sum((y != -100).sum() for _, y in data)), "samples": 12.0}


def test_a_term_that_is_a_mean_over_micro_batches():
    ours, theirs = make_model(), make_model()
    made = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0])
    data = labelled()
    for window in accumulator.windows(data, steps=5):
        with window:
            for inputs, _ in window:
                window.backward(ours(inputs).mean(), per="micro-batch")
    (sum(theirs(x).mean() for x, _ in data) / 5).backward()
    made[1].step()
    assert relative_distance(ours, theirs) <= 1e-12


def test_a_window_over_nothing_changes_nothing_and_says_so():
    for late in (False, True):
        model = make_model()
        before = [p.clone() for p in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        accumulator = Accumulator(model, optimizer, scheduler=scheduler, weight=tokens())
        data = [(inputs, torch.full_like(labels, -100)) for inputs, labels in sequences()]
        for window in accumulator.windows(data, steps=5):
            with window:
                for inputs, labels in window:
                    window.backward(token_loss(model, inputs, labels), weight=0 if late else None)
        assert window.skipped
        assert window.skip_reason == "the total weight of the window is 0"
        assert window.loss == 0.0
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert accumulator.num_updates == 0
        assert scheduler.last_epoch == 0


def test_hugging_face_models_work_by_their_weights():
    from transformers import GPT2Config, GPT2LMHeadModel

    def make():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
                            attn_pdrop=0, bos_token_id=0, eos_token_id=0)  # fmt: skip
        return GPT2LMHeadModel(config).double()

    generator = torch.Generator().manual_seed(2)
    data = []
    for size in SIZES:
        ids = torch.randint(32, (size, 9), generator=generator)
        labels = ids.clone()
        labels[torch.rand(size, 9, generator=generator) < 0.5] = -100
        data.append({"input_ids": ids, "labels": labels})
    ours, theirs = make(), make()
    made = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0], weight=tokens(shift=True))
    for window in accumulator.windows(data, steps=5):
        with window:
            for batch in window:
                window.backward(ours(**batch).loss)
    whole = {key: torch.cat([batch[key] for batch in data]) for key in data[0]}
    theirs(**whole).loss.backward()
    made[1].step()
    assert relative_distance(ours, theirs) <= 1e-8  # the model computes its loss in float32 whatever its own type
