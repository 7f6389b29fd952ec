"""Finds the rules by folder and puts a ledger before them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from gradledger.errors import UserError
from gradledger.findings import Finding, Selection, Severity, in_source_order, merge, selection, without_ignored
from gradledger.ledger import DEFAULT_ACCOUNT, Entry, Ledger, Location
from gradledger.rules._books import Books


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One occasion on which a rule was broken.

    Args:
        location: The line that must change, where known.
        message: What is wrong, with the numbers.
        update: Updates of the account completed before.
        account: The account.
        evidence: Lines that prove it.
        count: Occasions that this cause stands for.
    """

    location: Location | None
    message: str
    update: int = 0
    account: str = DEFAULT_ACCOUNT
    evidence: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as its file declares it.

    Example:
        >>> rule_named("GL101").slug
        'stale-gradient'
    """

    slug: str
    module: ModuleType

    @property
    def code(self) -> str:
        """Such as ``"GL101"``."""
        return str(self.module.CODE)

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``info``."""
        severity: Severity = self.module.SEVERITY
        return severity

    @property
    def over_ranks(self) -> bool:
        """It compares ranks: alone, a rank's ledger says less than those of all."""
        return bool(getattr(self.module, "OVER_RANKS", False))

    @property
    def fix(self) -> str:
        """What to change."""
        return str(self.module.FIX)

    @property
    def title(self) -> str:
        """The first line of the documentation."""
        return self.documentation.split("\n", 1)[0]

    @property
    def documentation(self) -> str:
        """The whole documentation, in markdown."""
        return inspect.cleandoc(self.module.__doc__ or "")

    @property
    def bad(self) -> str:
        """A script with the bug; the flagged line ends in ``# expect: slug``."""
        return str(self.module.BAD).lstrip("\n")

    @property
    def good(self) -> str:
        """The script put right."""
        return str(self.module.GOOD).lstrip("\n")

    def findings(self, books: Books) -> Iterator[Finding]:
        """One finding for each cause in the books, not yet merged."""
        causes: Iterable[Cause] = self.module.check(books)
        for cause in causes:
            yield Finding(
                rule=self.slug,
                code=self.code,
                severity=self.severity,
                message=cause.message,
                fix=self.fix,
                location=cause.location,
                count=cause.count,
                first_update=cause.update,
                account=cause.account,
                evidence=cause.evidence,
            )


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule in this folder, by code."""
    package = __name__.rpartition(".")[0]
    paths = import_module(package).__path__
    names = [module.name for module in iter_modules(paths) if not module.name.startswith("_")]
    rules = [Rule(name.replace("_", "-"), import_module(f"{package}.{name}")) for name in names]
    return tuple(sorted(rules, key=lambda rule: rule.code))


def rule_named(name: str) -> Rule:
    """The rule of this slug or code.

    Raises:
        UserError: There is none.
    """
    for rule in all_rules():
        if name in (rule.slug, rule.code) or name.upper() == rule.code:
            return rule
    raise UserError(f"no rule {name!r}: `gradledger rules` lists the slugs and codes")


def rules_over_ranks() -> frozenset[str]:
    """The slugs of the rules that compare ranks."""
    return frozenset(rule.slug for rule in all_rules() if rule.over_ranks)


def descriptions() -> dict[str, str]:
    """Each rule's title by slug."""
    return {rule.slug: rule.title for rule in all_rules()}


def check_selection(select: Iterable[str] | None = None, ignore: Iterable[str] | None = None) -> Selection:
    """The rules that ``--select`` and ``--ignore`` leave.

    Raises:
        UserError: One of them names no rule.
    """
    return selection([(rule.slug, rule.code) for rule in all_rules()], select, ignore)


def judge(
    ledger: Ledger | Iterable[Entry],
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    *,
    complete: bool = True,
) -> list[Finding]:
    """Put a ledger before the rules.

    Args:
        ledger: What happened, or what a linter predicts.
        select: Only these slugs, codes or families. None: all rules.
        ignore: Not these.
        complete: The program came to its end: what is still open then, stays open.

    Returns:
        Each distinct cause once, in source order; comments in the source that ignore a finding are heeded.

    Raises:
        UserError: ``select`` or ``ignore`` names no rule.

    Example:
        >>> from gradledger.ledger import from_text
        >>> [finding.rule for finding in judge(from_text("Z B S B S"))]
        ['stale-gradient']
    """
    wanted = check_selection(select, ignore)
    books = Books(ledger, complete=complete)
    found = [finding for rule in all_rules() if rule.slug in wanted for finding in rule.findings(books)]
    return in_source_order(without_ignored(merge(found)))
