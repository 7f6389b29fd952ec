"""The ledger's picture against ledgers drawn by hand."""

import pytest
from synthetic_runs import write_run

from gradledger.ledger import Backward, Ledger, Step, Zero, from_text
from gradledger.report import read_run
from gradledger.report.picture import Bucket, tracks_of


def only_track(entries):
    (track,) = tracks_of(Ledger(entries))
    return track


def mean(micro_batch, weight, scale, update=0):
    return Backward(micro_batch=micro_batch, update=update, weight=weight, scale=scale, reduction="mean")


def test_a_balanced_window_fills_its_bucket():
    track = only_track([mean(1, 16.0, 16 / 41), mean(2, 16.0, 16 / 41), mean(3, 9.0, 9 / 41), Step(), Zero()])
    assert track.buckets == (Bucket(((16.0, 16.0), (16.0, 16.0), (9.0, 9.0)), state="balanced"),)
    assert track.unit == "samples"
    assert track.updates == (1,)


def test_losses_that_nobody_divided_overflow_by_their_number():
    track = only_track([mean(1, 16.0, 1.0), mean(2, 16.0, 1.0), Step(), Zero()])
    assert track.buckets[0].cups == ((16.0, 32.0), (16.0, 32.0))
    assert track.buckets[0].state == "scaled"


def test_what_nobody_zeroed_stays_at_the_bottom_and_adds_up():
    track = only_track(from_text("B B S B B S B B S Z B B S"))
    assert [bucket.stale for bucket in track.buckets] == [0, 2, 4, 0]
    assert [bucket.state for bucket in track.buckets] == ["unknown", "stale", "stale", "unknown"]


def test_what_was_zeroed_away_is_missing_and_the_rest_keeps_its_share():
    track = only_track([mean(1, 16.0, 0.5), Zero(), mean(2, 16.0, 0.5), Step(), Zero()])
    (bucket,) = track.buckets
    assert bucket.spilled == ((16.0, 16.0),)
    assert bucket.cups == ((16.0, 16.0),)
    assert bucket.state == "short"


@pytest.mark.parametrize(("text", "outcome"), [("B B s Z", "skipped"), ("B B V", "void"), ("B B", "open")])
def test_how_a_window_ended(text, outcome):
    (bucket,) = only_track(from_text(text)).buckets
    assert bucket.outcome == outcome
    assert len(bucket.cups) == 2


def test_accounts_are_drawn_apart():
    tracks = tracks_of(Ledger(from_text("B:d S:d Z:d B:g B:g S:g Z:g")))
    assert [(track.account, len(track.buckets[0].cups)) for track in tracks] == [("d", 1), ("g", 2)]


def test_a_long_ledger_keeps_what_is_uncommon():
    text = "Z B B S " * 500 + "Z B B B S " + "Z B B S " * 500
    (track,) = tracks_of(Ledger(from_text(text)), max_buckets=100)
    assert track.num_windows == 1001
    assert len(track.buckets) <= 101
    assert max(len(bucket.cups) for bucket in track.buckets) == 3


def test_the_page_gets_each_distinct_bucket_once(tmp_path):
    run = read_run(write_run(tmp_path / "run", num_epochs=5))
    (track,) = tracks_of(run.ledger)
    drawn = track.to_json()
    assert len(drawn["sequence"]) == 60
    assert len(drawn["buckets"]) == 2  # whole windows and tails
    assert track.states == {"balanced": 60}
