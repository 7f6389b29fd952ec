"""The pytest fixture ``gradient_audit``: a test that trains fails where its gradient bookkeeping is wrong.

.. code-block:: python

    def test_training(gradient_audit):
        train_two_epochs()

Imports nothing but pytest until the fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gradledger.auditor import Auditor


@pytest.fixture
def gradient_audit() -> Iterator[Auditor]:
    """Audits the whole test; findings at warning or above fail it. ``gradient_audit.findings`` has them earlier."""
    from gradledger.auditor import audit

    with audit() as auditor:
        yield auditor


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Judge when the test's own code has run, so that findings are a failure and not an error."""
    yield
    auditor = getattr(item, "funcargs", {}).get("gradient_audit")
    if auditor is None:
        return
    from gradledger.findings import exit_status, render

    findings = auditor.close()
    if exit_status(findings):
        pytest.fail(render(findings), pytrace=False)
