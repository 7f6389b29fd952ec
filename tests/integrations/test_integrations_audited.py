"""Loops with an adapter are clean under our own audit; the same loops without are not."""

import dataclasses

import pytest

import gradledger
from integrations.tasks import TASKS, micro_batches
from integrations.trainers import TRAINERS

UNEVEN_TAIL = dataclasses.replace(TASKS["samples"], micro_batches=micro_batches((2,) * 8))


def slugs(train, task, *, exact):
    with gradledger.audit() as auditor:
        train(task, exact=exact)
    return {finding.rule for finding in auditor.findings if finding.severity != "info"}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("task", [*TASKS.values(), UNEVEN_TAIL], ids=[*TASKS, "short tail"])
def test_an_exact_loop_is_clean(trainer, task):
    assert slugs(TRAINERS[trainer], task, exact=True) == set()
