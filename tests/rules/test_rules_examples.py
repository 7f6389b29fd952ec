"""Each rule's BAD example gives exactly its marked findings under audit, its GOOD example nothing."""

import linecache
import re

import pytest
import torch

import gradledger
from gradledger.rules import all_rules

MARKER = re.compile(r"# expect(?:\[(\w+)\])?: ([a-z, -]+)")
EXAMPLES = [rule for rule in all_rules() if not rule.code.startswith("GL8")]


def marked(source):
    """What an audit must find, by line."""
    wanted = {}
    for number, line in enumerate(source.splitlines(), start=1):
        for tool, slugs in MARKER.findall(line):
            if tool in ("", "audit"):
                wanted[number] = {slug.strip() for slug in slugs.split(",")}
    return wanted


def found_in(source, name):
    """What an audit finds, by line; severity info only of the rule at hand."""
    file = f"/examples/{name}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    state = torch.get_rng_state()
    try:
        with gradledger.audit() as auditor:
            exec(compile(source, file, "exec"), {"__name__": "__main__"})
    finally:
        torch.set_rng_state(state)
        del linecache.cache[file]
    found = {}
    for finding in auditor.findings:
        if finding.severity != "info" or finding.rule == name:
            found.setdefault(finding.location.line, set()).add(finding.rule)
    return found


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("rule", EXAMPLES, ids=lambda rule: rule.slug)
def test_bad_is_found_and_good_is_not(rule):
    assert found_in(rule.bad, rule.slug) == marked(rule.bad)
    assert found_in(rule.good, rule.slug) == {}


def test_most_rules_are_seen_by_an_audit():
    unseen = {rule.slug for rule in EXAMPLES if not marked(rule.bad)}
    assert unseen == {"loss-log-scale", "uneven-ranks", "host-sync-per-micro-batch", "needless-accumulation"}
