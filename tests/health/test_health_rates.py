"""The health rules over real trainings: they speak about the sick ones and are silent about the healthy ones."""

import pytest
from health_runs import HEALTHY, SICK

from gradledger.rules import judge


def names(recipes):
    return [recipe.name for recipe in recipes]


def test_there_are_enough_of_both_and_no_two_alike():
    assert len({recipe.name for recipe in HEALTHY}) >= 20
    assert len({recipe.name for recipe in SICK}) >= 20


@pytest.mark.parametrize("recipe", HEALTHY, ids=names(HEALTHY))
def test_a_healthy_run_gives_no_error_and_no_warning(recipe, ledger_of):
    assert [f"{f.rule}: {f.message}" for f in judge(ledger_of(recipe)) if f.severity != "info"] == []


@pytest.mark.parametrize("recipe", SICK, ids=names(SICK))
def test_a_sick_run_is_found_by_its_rule(recipe, ledger_of):
    assert recipe.expected in {finding.rule for finding in judge(ledger_of(recipe))}
