"""The rules: one file a rule, each one named way for a window to be out of balance.

A rule's file name is its slug (``stale_gradient.py`` is ``stale-gradient``). It holds:

    the module's docstring   the documentation: a title line, then what it is, why it is silent, how to fix it, source
    CODE, SEVERITY, FIX      ``"GL101"``, ``"error"``, what to change in one sentence
    check(books)             yields a ``Cause`` for each occasion found in the ledger
    BAD, GOOD                runnable scripts; in BAD the flagged line ends in ``# expect: slug``

Rules read ledgers only, so that auditor, linter and engine are judged alike; what a ledger does not know (``None``)
keeps a rule silent. Nothing here imports torch.
"""

from gradledger.rules._books import Books as Books
from gradledger.rules._books import Series as Series
from gradledger.rules._books import strip as strip
from gradledger.rules._registry import Cause as Cause
from gradledger.rules._registry import Rule as Rule
from gradledger.rules._registry import all_rules as all_rules
from gradledger.rules._registry import check_selection as check_selection
from gradledger.rules._registry import descriptions as descriptions
from gradledger.rules._registry import judge as judge
from gradledger.rules._registry import rule_named as rule_named
from gradledger.rules._registry import rules_over_ranks as rules_over_ranks
