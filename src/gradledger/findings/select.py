"""Which rules are wanted: ``--select`` and ``--ignore``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from gradledger.errors import UserError


@dataclass(frozen=True, slots=True)
class Selection:
    """A set of rules by slug."""

    slugs: frozenset[str]

    def __contains__(self, slug: object) -> bool:
        return slug in self.slugs


def selection(
    rules: Collection[tuple[str, str]], select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> Selection:
    """The rules that remain after ``--select`` and ``--ignore``.

    Args:
        rules: Slug and code of every rule.
        select: Slugs, codes (``GL101``) or families (``GL1``), each possibly several with commas. None: all rules.
        ignore: The same, taken away afterwards.

    Raises:
        UserError: A name is no rule.

    Example:
        >>> rules = [("stale-gradient", "GL101"), ("mean-of-means", "GL203")]
        >>> sorted(selection(rules, ["GL1,mean-of-means"], ["GL101"]).slugs)
        ['mean-of-means']
    """
    wanted = _resolve(rules, select) if select else frozenset(slug for slug, _ in rules)
    return Selection(wanted - (_resolve(rules, ignore) if ignore else frozenset()))


def _resolve(rules: Collection[tuple[str, str]], names: Iterable[str]) -> frozenset[str]:
    slugs: set[str] = set()
    for name in (part.strip() for several in names for part in several.split(",") if part.strip()):
        code = name.upper()
        is_code = code.startswith("GL") and code[2:].isdigit()
        found = {slug for slug, own in rules if slug == name or (is_code and own.startswith(code))}
        if not found:
            raise UserError(f"no rule {name!r}: `gradledger rules` lists the slugs and codes (a family is GL1 to GL8)")
        slugs |= found
    return frozenset(slugs)
