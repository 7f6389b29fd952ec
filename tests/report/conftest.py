"""Run directories and pages shared by the report's tests."""

import shutil

import pytest
from synthetic_runs import write_run

from gradledger.report import write_report

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory):
    """A folder with an ordinary run, three broken ones and a comparison of three."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "digits")
    for fault in ("never-zeroed", "unnormalized", "zeroed-inside"):
        write_run(root / fault, fault=fault, num_epochs=3)
    write_run(root / "compared" / "small", steps=1, updates_per_epoch=48, num_epochs=4)
    write_run(root / "compared" / "accumulated", num_epochs=4, best=0.9)
    write_run(root / "compared" / "large", steps=1, micro_batch_size=64, num_epochs=4)
    return root


@pytest.fixture(scope="session")
def page_file(runs_root):
    """The HTML report of the ordinary run."""
    return write_report([runs_root / "digits"], runs_root / "digits.html")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Without Chromium the browser tests are skipped, and the end of the session says so in capital letters."""
    if CHROMIUM is not None:
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="no Chromium: the report's page was NOT tested in a browser"))
            config.stash[_NUM_UNTESTED] = config.stash.get(_NUM_UNTESTED, 0) + 1


_NUM_UNTESTED = pytest.StashKey[int]()


def pytest_terminal_summary(terminalreporter, config):
    """Say loudly what was not tested."""
    untested = config.stash.get(_NUM_UNTESTED, 0)
    if untested:
        terminalreporter.section("BROWSER TESTS NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"{untested} tests need Chromium, which is not on PATH: `apt-get install chromium`.")
