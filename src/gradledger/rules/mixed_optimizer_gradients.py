"""A step consumes gradients that a loss meant for another optimizer left behind.

The generator's loss runs through the discriminator and fills its gradients too. Unless the discriminator is zeroed
just before its own backward, its next step also follows the generator's loss, with the wrong sign. The same happens
between actor and critic. Both networks train, against themselves.

Source: Lightning-AI/pytorch-lightning#591, OmniTokenizer#15.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradledger.ledger import Backward, Window
from gradledger.rules._books import Books, Series, strip
from gradledger.rules._registry import Cause

CODE = "GL105"
SEVERITY = "error"
FIX = "Zero this optimizer right before its own backward, or compute the other loss with these parameters frozen."


def check(books: Books) -> Iterator[Cause]:
    """A window that holds what another account's step has used, and its own gradients on top."""
    for series in books.series:
        for window in series.closed:
            strays = _strays(books, series, window)
            if strays:
                yield _cause(series, window, strays)


def _strays(books: Books, series: Series, window: Window) -> list[Backward]:
    """Backward passes that another account consumed before this account's own were added."""
    strays = []
    for backward in window.consumed:
        used_at = min((use.position for use in books.used_by_others(backward)), default=None)
        if used_at is None:
            continue
        own = (
            later.location != backward.location and series.position_of[id(later)] > used_at for later in window.consumed
        )
        if any(own):
            strays.append(backward)
    return strays


def _cause(series: Series, window: Window, strays: list[Backward]) -> Cause:
    step = window.step
    assert step
    lines = sorted({f"line {stray.location.line}" for stray in strays if stray.location})
    return Cause(
        location=step.location,
        message=f"Of the {len(window.consumed)} backward passes in this step, {len(strays)} "
        f"{'was' if len(strays) == 1 else 'were'} meant for another optimizer, which had already used "
        f"{'it' if len(strays) == 1 else 'them'} ({', '.join(lines) or 'place unknown'}).",
        update=step.update,
        account=series.account,
        evidence=(strip(window.entries, *strays),),
    )


BAD = """
import torch

torch.manual_seed(0)
generator = torch.nn.Linear(2, 4)
discriminator = torch.nn.Linear(4, 1)
generator_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
discriminator_optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
for real in torch.randn(5, 8, 4):
    fake = generator(torch.randn(8, 2))
    generator_loss = -discriminator(fake).mean()
    generator_loss.backward()
    generator_optimizer.step()
    generator_optimizer.zero_grad()
    discriminator_loss = (discriminator(fake.detach()) - discriminator(real)).mean()
    discriminator_loss.backward()
    discriminator_optimizer.step()  # expect: mixed-optimizer-gradients
    discriminator_optimizer.zero_grad()
"""

GOOD = """
import torch

torch.manual_seed(0)
generator = torch.nn.Linear(2, 4)
discriminator = torch.nn.Linear(4, 1)
generator_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
discriminator_optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
for real in torch.randn(5, 8, 4):
    fake = generator(torch.randn(8, 2))
    generator_loss = -discriminator(fake).mean()
    generator_loss.backward()
    generator_optimizer.step()
    generator_optimizer.zero_grad()
    discriminator_optimizer.zero_grad()
    discriminator_loss = (discriminator(fake.detach()) - discriminator(real)).mean()
    discriminator_loss.backward()
    discriminator_optimizer.step()
"""
