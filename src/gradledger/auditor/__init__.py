"""Takes a ledger from any running training loop and puts it before the rules.

Names are imported when they are first touched: the command line reads a script before it loads torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradledger.auditor.session import Auditor as Auditor
    from gradledger.auditor.session import audit as audit

__all__ = ["Auditor", "audit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gradledger.auditor import session

    return getattr(session, name)
