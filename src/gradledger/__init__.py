"""Gradient accumulation and zeroing in PyTorch, done right.

A table of contents: names are imported when they are first touched, so ``import gradledger`` costs nothing and
``gradledger lint`` never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradledger.auditor import audit as audit
    from gradledger.engine import Accumulator as Accumulator
    from gradledger.engine import Window as Window
    from gradledger.engine import class_weights as class_weights
    from gradledger.engine import elements as elements
    from gradledger.engine import num_updates as num_updates
    from gradledger.engine import tokens as tokens
    from gradledger.errors import UserError as UserError
    from gradledger.ledger import Ledger as Ledger
    from gradledger.ledger import read_ledger as read_ledger
    from gradledger.planner import Plan as Plan
    from gradledger.planner import plan as plan
    from gradledger.verifier import Verification as Verification
    from gradledger.verifier import verify as verify
    from gradledger.verifier import verify_step as verify_step

__version__ = "0.1.0"

_HOMES = {
    "Accumulator": "gradledger.engine",
    "Window": "gradledger.engine",
    "class_weights": "gradledger.engine",
    "elements": "gradledger.engine",
    "num_updates": "gradledger.engine",
    "tokens": "gradledger.engine",
    "UserError": "gradledger.errors",
    "Ledger": "gradledger.ledger",
    "read_ledger": "gradledger.ledger",
    "audit": "gradledger.auditor",
    "Plan": "gradledger.planner",
    "plan": "gradledger.planner",
    "Verification": "gradledger.verifier",
    "verify": "gradledger.verifier",
    "verify_step": "gradledger.verifier",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradledger' has no attribute {name!r}: it has {', '.join(_HOMES)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
