"""How often the health rules are right: small real trainings, each with several seeds, judged by all rules.

    python benchmarks/health_rates.py [NUM_SEEDS] [FIRST_SEED]

Prints one line a recipe and the totals. A sick run counts as found when its expected rule speaks; a healthy run as a
false alarm when any rule speaks at warning or error. The thresholds were chosen on seeds 0 to 3; the documented rates
are from seeds 100 on.
"""

from __future__ import annotations

import sys

import torch
from health_runs import HEALTHY, SICK, Recipe, train

from gradledger.rules import judge


def said(recipe: Recipe, seed: int) -> set[str]:
    """The rules that speak about a run at warning or error."""
    return {finding.rule for finding in judge(train(recipe, seed)) if finding.severity != "info"}


def main(num_seeds: int = 8, first_seed: int = 100) -> None:
    """Train everything and print the table."""
    torch.set_num_threads(1)
    seeds = range(first_seed, first_seed + num_seeds)
    num_false = num_found = 0
    for recipe in HEALTHY:
        alarms = [rules for seed in seeds if (rules := said(recipe, seed))]
        num_false += len(alarms)
        print(f"healthy  {recipe.name:32} {len(alarms)} of {num_seeds} alarmed  {sorted(set().union(*alarms))}")
    for recipe in SICK:
        spoken = [said(recipe, seed) for seed in seeds]
        found = sum(recipe.expected in rules for rules in spoken)
        num_found += found
        others = sorted(set().union(*spoken) - {recipe.expected})
        print(f"sick     {recipe.name:32} {found} of {num_seeds} found: {recipe.expected}; also {others}")
    print(f"false alarms: {num_false} of {num_seeds * len(HEALTHY)} healthy runs")
    print(f"found: {num_found} of {num_seeds * len(SICK)} sick runs")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
