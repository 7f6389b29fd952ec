"""Windows and the balance algebra, against gradients computed the slow way."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradledger.ledger import Adjust, Backward, Ledger, Step, Zero, balance_of, from_text, windows_of

WEIGHTS = st.lists(st.floats(0.5, 100), min_size=1, max_size=8)
LETTERS = st.lists(st.sampled_from(["Z", "V", "B", "C", "S", "s", "L", "("]), max_size=40).map(" ".join)


def window_of(backwards, *others):
    (window,) = Ledger([*backwards, *others, Step()]).windows()
    return window


def means(weights, scales):
    return [
        Backward(micro_batch=at + 1, weight=weight, scale=scale, reduction="mean")
        for at, (weight, scale) in enumerate(zip(weights, scales, strict=True))
    ]


@given(LETTERS)
def test_windows_lose_no_entry(text):
    entries = from_text(text)
    assert [entry for window in windows_of(entries) for entry in window.entries] == entries


@given(LETTERS)
def test_windows_end_at_steps_and_voids_only(text):
    for window in windows_of(from_text(text)):
        ends = [at for at, entry in enumerate(window.body) if isinstance(entry, Step) or entry.letter == "V"]
        assert ends in ([], [len(window.body) - 1])
        assert not any(isinstance(entry, Backward | Step) for entry in window.lead)
        assert sum([window.step is not None, window.is_void, window.is_open]) <= 1


@given(st.lists(st.tuples(st.sampled_from(["B", "S"]), st.sampled_from(["", ":critic"])).map("".join)).map(" ".join))
def test_accounts_are_cut_apart(text):
    ledger = Ledger(from_text(text))
    for account in ledger.accounts:
        own = [entry for entry in ledger if entry.account == account]
        assert ledger.windows(account) == windows_of(own)


def test_consumed_backwards_follow_the_last_zeroing():
    (window,) = Ledger(from_text("B B Z B S")).windows()
    assert [backward.micro_batch for backward in window.backwards] == [1, 2, 3]
    assert [backward.micro_batch for backward in window.consumed] == [3]


@given(WEIGHTS)
def test_weighted_means_balance(weights):
    total = math.fsum(weights)
    assert balance_of(window_of(means(weights, [w / total for w in weights]))).verdict == "balanced"


@given(WEIGHTS)
def test_sums_divided_once_balance(weights):
    sums = [
        Backward(micro_batch=at + 1, weight=weight, scale=1.0, reduction="sum") for at, weight in enumerate(weights)
    ]
    assert balance_of(window_of(sums, Adjust(factor=1 / math.fsum(weights)))).verdict == "balanced"


@given(WEIGHTS, st.floats(0.01, 100))
def test_one_wrong_factor_is_measured(weights, factor):
    assume(not math.isclose(factor, 1.0, rel_tol=1e-3))
    total = math.fsum(weights)
    balance = balance_of(window_of(means(weights, [factor * w / total for w in weights])))
    assert balance.verdict == "scaled"
    assert balance.factor == pytest.approx(factor)


@given(WEIGHTS)
def test_the_mean_of_means_is_uneven(weights):
    assume(max(weights) / min(weights) > 1.01)
    balance = balance_of(window_of(means(weights, [1 / len(weights)] * len(weights))))
    assert balance.verdict == "uneven"
    for ratio, weight in zip(balance.ratios, weights, strict=True):
        assert ratio == pytest.approx(math.fsum(weights) / len(weights) / weight)


@given(st.integers(1, 8))
def test_forgetting_to_divide_is_a_factor_of_the_number(num_micro_batches):
    balance = balance_of(window_of(means([16.0] * num_micro_batches, [1.0] * num_micro_batches)))
    assert balance.factor == pytest.approx(num_micro_batches)


def test_terms_have_their_own_totals():
    terms = [
        Backward(micro_batch=1, weight=3.0, unit="tokens", scale=3 / 4, reduction="mean"),
        Backward(micro_batch=1, weight=2.0, unit="samples", scale=1 / 2, reduction="mean"),
        Backward(micro_batch=2, weight=1.0, unit="tokens", scale=1 / 4, reduction="mean"),
        Backward(micro_batch=2, weight=2.0, unit="samples", scale=1 / 2, reduction="mean"),
    ]
    assert balance_of(window_of(terms)).verdict == "balanced"


def test_zeroed_micro_batches_do_not_count():
    lost, kept = means([8.0, 8.0], [1.0, 1.0])
    assert balance_of(window_of([lost], Zero(), kept)).verdict == "balanced"


def test_gradients_put_there_by_hand_make_a_window_unknown_until_they_are_zeroed():
    half, whole = means([8.0, 8.0], [0.5, 1.0])
    assert balance_of(Ledger([Zero(), Adjust(), half, Step()]).windows()[0]).verdict == "unknown"
    for zeroed in ([Adjust(), Zero(), whole, Step()], [Adjust(), half, Zero(), whole, Step()]):
        assert balance_of(Ledger(zeroed).windows()[0]).verdict == "balanced"


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [Backward(micro_batch=1, scale=1.0, reduction="mean")],
        [Backward(micro_batch=1, weight=4.0, reduction="mean")],
        [Backward(micro_batch=1, weight=4.0, scale=1.0)],
        [Backward(micro_batch=1, weight=4.0, scale=1.0, reduction="mean"), Adjust()],
        [Backward(micro_batch=1, weight=0.0, scale=1.0, reduction="mean")],
    ],
    ids=["empty", "weight", "scale", "reduction", "change by hand", "no units"],
)
def test_what_is_not_known_stays_unknown(entries):
    assert balance_of(window_of(entries)).verdict == "unknown"
