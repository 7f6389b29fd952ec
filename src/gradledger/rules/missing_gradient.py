"""An optimizer owns parameters that never receive a gradient.

A `detach()` in the wrong place, a branch that the loss does not use, a module replaced after the optimizer was built:
the step passes over parameters whose `.grad` is None, and they keep their initial values for the whole run.

Source: a frequent question; the runtime tools of part 4 in the field survey look for unused layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Step
from gradledger.rules._books import Books, plural
from gradledger.rules._registry import Cause

CODE = "GL107"
SEVERITY = "warning"
FIX = "Connect these parameters to the loss, or take them out of the optimizer (or freeze them)."


_ENOUGH_UPDATES = 3


def check(books: Books) -> Iterator[Cause]:
    """Parameters still without a gradient at the account's last step."""
    for series in books.series:
        last = series.last_step
        if last is None or not last.num_missing or last.update + 1 < _ENOUGH_UPDATES:
            continue
        steps = [entry for entry in series.entries if isinstance(entry, Step) and entry.num_missing]
        yield Cause(
            location=last.location,
            message=f"{plural(last.num_missing, 'parameter')} of this optimizer never received a gradient in "
            f"{plural(last.update + 1, 'update')}.",
            update=steps[0].update,
            account=series.account,
            count=len(steps),
        )


BAD = """
import torch

torch.manual_seed(0)
body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    loss = head(body(x).detach()).square().mean()
    loss.backward()
    optimizer.step()  # expect: missing-gradient
"""

GOOD = """
import torch

torch.manual_seed(0)
body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    loss = head(body(x)).square().mean()
    loss.backward()
    optimizer.step()
"""
