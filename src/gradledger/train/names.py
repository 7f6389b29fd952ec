"""The nearest valid name to a mistaken one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, valid: Iterable[str]) -> str:
    """A sentence that names the nearest of the valid names.

    Example:
        >>> nearest("epoch", ["epochs", "seed"])
        "did you mean 'epochs'?"
        >>> nearest("zzz", ["epochs"])
        "the nearest valid name is 'epochs'."
    """
    names = list(valid)
    folded = {candidate.lower().replace("_", "-"): candidate for candidate in names}
    query = name.lower().replace("_", "-")
    close = get_close_matches(query, folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    (best,) = get_close_matches(query, folded, n=1, cutoff=0.0) or [next(iter(folded))]
    return f"the nearest valid name is {folded[best]!r}."
