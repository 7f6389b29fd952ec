"""The graph is kept for another backward that never comes.

`retain_graph=True` keeps all saved activations of a micro-batch alive past its backward, often as a cure for an error
whose cause is elsewhere. The memory that accumulation was to save is spent on graphs that nobody uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward
from gradledger.rules._books import Books, strip
from gradledger.rules._registry import Cause

CODE = "GL701"
SEVERITY = "warning"
FIX = "Drop retain_graph=True; if that raises an error, detach what is carried from one micro-batch to the next."


def check(books: Books) -> Iterator[Cause]:
    """Backward passes that retain their graph, none of which is gone through again."""
    lines: dict[object, list[Backward]] = {}
    for entry in books.entries:
        if isinstance(entry, Backward) and entry.retained:
            lines.setdefault((entry.account, entry.location), []).append(entry)
    for backwards in lines.values():
        first = backwards[0]
        reused = any((b.rank, b.call) in books.reused_calls for b in backwards)
        if not reused and len(backwards) > 1:
            yield Cause(
                location=first.location,
                message=f"retain_graph=True in {len(backwards)} backward passes, and no graph was used a second time.",
                update=first.update,
                account=first.account,
                count=len(backwards),
                evidence=(strip(backwards[:12], *backwards[:12]),),
            )


BAD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i, x in enumerate(torch.randn(12, 8, 4)):
    loss = model(x).square().mean() / 4
    loss.backward(retain_graph=True)  # expect: retained-graph
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.randn(6, 8, 4):
    prediction = model(x)
    prediction.square().mean().backward(retain_graph=True)
    prediction.abs().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
