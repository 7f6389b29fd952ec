"""A configured run says at once that it trains in one process."""

import pytest

from gradledger.errors import UserError
from gradledger.train.config import TrainConfig
from gradledger.train.setup import prepare


def test_a_configured_run_under_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"one of 2 ranks \(WORLD_SIZE\), but a configured run trains in one process"):
        prepare(TrainConfig())
