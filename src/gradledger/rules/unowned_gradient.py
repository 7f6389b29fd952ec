"""Parameters receive gradients in update after update, but no optimizer owns them.

Either they were forgotten when the optimizer was built and never train, or they are meant to stay as they are: then
computing their gradients wastes time and memory, and what piles up in `.grad` surprises whoever trains them later.

Source: a frequent question; preflight tools check the same wiring for LoRA adapters.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Location
from gradledger.rules._books import Books, plural
from gradledger.rules._registry import Cause

CODE = "GL106"
SEVERITY = "warning"
FIX = "Hand these parameters to an optimizer, or freeze them with requires_grad_(False)."


def check(books: Books) -> Iterator[Cause]:
    """A backward line that fills parameters without an optimizer in at least two updates."""
    lines: dict[Location | None, dict[tuple[str, int], Backward]] = {}
    for entry in books.entries:
        if isinstance(entry, Backward) and entry.num_unowned:
            lines.setdefault(entry.location, {}).setdefault((entry.account, entry.update), entry)
    for location, firsts in lines.items():
        first = next(iter(firsts.values()))
        if len({update for _, update in firsts}) > 1:
            yield Cause(
                location=location,
                message=f"This backward computes gradients of {plural(first.num_unowned or 0, 'parameter')} that no "
                "optimizer owns: nothing ever uses them.",
                update=first.update,
                account=first.account,
                count=len(firsts),
            )


BAD = """
import torch

torch.manual_seed(0)
body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    loss = head(body(x)).square().mean()
    loss.backward()  # expect: unowned-gradient
    optimizer.step()
"""

GOOD = """
import torch

torch.manual_seed(0)
body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
head.requires_grad_(False)
optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    optimizer.zero_grad()
    loss = head(body(x)).square().mean()
    loss.backward()
    optimizer.step()
"""
