"""Numbers for what the source leaves open, by what people call it."""

from __future__ import annotations

import re

from gradledger.lint.machine.values import Unknown, Value

ASSUMED_STEPS = 3
ASSUMED_MICRO_BATCHES = 7
ASSUMED_EPOCHS = 2
ASSUMED_BATCH_SIZE = 4

_STEPS = re.compile(
    r"^(n_|num_)?(grad(ient)?s?_?)?(accum|accumulation|accumulate|acc)(_?(grad(ient)?s?|batch(es)?|steps?|iters?|"
    r"iterations?|size|num|every|freq|factor|k|n|count))*$|accumulation_steps|accum_steps|accum_iter|grad_accum$|"
    r"^accum(_grad)?$|update_freq|iter_size|accumulate_grad_batches|(n|num)_(micro|mini)_?(batch|step)(es|s)?$",
    re.I,
)
_EPOCHS = re.compile(r"^(n_|num_|max_|total_|n|train_)?epochs?$|^(max|num|n|total|train)_.*epochs?$|_epochs$", re.I)
_STEPS_IN_RUN = re.compile(
    r"^(max|num|n|total|train)_?(train_?|training_?|update_?)?(steps?|iters?|iterations?|updates?)$|^(steps|iters|niter|iterations)$",
    re.I,
)
_BATCH_SIZE = re.compile(r"batch_?size$|^bs$|^bsz$|^batch_sz$", re.I)
_RARE = re.compile(
    r"log|print|eval|save|val|test|display|report|vis|plot|sample|ckpt|checkpoint|write|summary|freq|interval|every|dump",
    re.I,
)


def number_for(name: str) -> int | None:
    """A small number for a quantity of this name; None if the name says nothing."""
    if _STEPS.search(name):
        return ASSUMED_STEPS
    if _BATCH_SIZE.search(name):
        return ASSUMED_BATCH_SIZE
    if _EPOCHS.search(name) and name.lower() not in ("epoch",):
        return ASSUMED_EPOCHS
    if _STEPS_IN_RUN.search(name):
        return ASSUMED_MICRO_BATCHES
    return None


def named(path: str, *, varying: bool = False) -> Value:
    """The value of something that the source only names: a small number where the name says so, else unknown."""
    words = re.findall(r"[A-Za-z_]\w*", path)
    number = number_for(words[-1]) if words else None
    return Unknown(path, varying) if number is None else number


def modulus(unknown: Unknown) -> int | None:
    """A small number for ``i % unknown``; None where the name says it is for logging or evaluation."""
    if _STEPS.search(unknown.hint) or "update" in unknown.hint:
        return ASSUMED_STEPS
    return None if _RARE.search(unknown.hint) else ASSUMED_STEPS
