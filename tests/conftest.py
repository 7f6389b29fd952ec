"""What holds for every test: nothing is left behind, and random examples are the same in each run."""

import pytest
from hypothesis import settings

from leaks import differences, snapshot

# The machine decides how long an example takes; the seed does not change between runs, so a failure repeats.
settings.register_profile("gradledger", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("gradledger")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Sizes that are remembered across runs go where the user's are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    before = snapshot()
    yield
    left = differences(before, snapshot())
    assert not left, "this test leaves something behind: " + "; ".join(left)
