"""Target: the user's own code, which ``verify``, ``plan`` and ``audit`` run: it may give anything and fail anywhere."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz import mutating
from fuzz.case import Case

_MODELS = (
    "nn.Linear(3, 2)", "nn.Linear(3, 2).double()", "nn.Sequential()", "None", "7", "nn.Linear(3, 0)",
    "nn.Linear(3, 2).requires_grad_(False)",
    "nn.Linear", "(lambda x: x)", "nn.Linear(3, 2, device='meta')",
    "nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))", "nn.LazyLinear(2)",
    "nn.Embedding(5, 2, sparse=True)",
)  # fmt: skip
_LOSSES = (
    "lambda m, b: m(b[0]).mean()", "lambda m, b: m(b[0]).sum()", "lambda m, b: m(b[0])", "lambda m, b: 0.0",
    "lambda m, b: None",
    "lambda m, b: m(b[0]).mean() * float('nan')", "lambda m, b: 1 / 0", "lambda: 1", "None",
    "lambda m, b: m(b[0]).mean().detach()",
    "lambda m, b: m(b[0]).mean().item()", "lambda m, b: m(b[0]).mean().long()",
    "lambda m, b: m(b[0]).abs().log().mean()",
    "lambda m, b: exit(7)", "lambda m, b: m(b[0]).mean() + 0j", "lambda m, b: (m(b[0]).mean(), 1)",
    "lambda m, b: open('no such file')",
    "lambda m, b: (_ for _ in ()).throw(RuntimeError('\\x1b[31mred'))",
)  # fmt: skip
_BATCHES = (
    "(torch.randn(12, 3), torch.arange(12) % 2)", "torch.randn(12, 3)", "(torch.randn(0, 3),)", "()", "None", "5",
    "'text'", "{}",
    "[torch.randn(3)] * 4", "(torch.randn(1, 3),)", "(torch.randn(12, 3), torch.randn(11))",
    "{'a': torch.randn(4, 3)}",
    "(torch.full((12, 3), float('inf')),)", "(torch.ones(12, 3, dtype=torch.long),)", "(torch.randn(12, 5),)", "[[]]",
    "iter([1])",
    "(torch.tensor(1.0),)", "(torch.randn(12, 3, device='meta'),)",
)  # fmt: skip
_MORE = (
    "", "", "", "'micro_batch_size': -1,", "'micro_batch_size': 10**30,", "'precision': 'nope',", "'weight': 'x',",
    "'weight': float('nan'),",
    "'reduction': 'none',", "'unknown': 1,", "'optimizer': 'adamw',", "'optimizer': None,",
    "'accumulate_dtype': 'float7',", "'max_seconds': -1,",
    "'step_fn': lambda *a: None,", "'num_updates': 0,", "'clip_norm': -1.0,", "1: 2,", "'\\x1b[31m': 1,",
    "'weight': lambda b: 1 / 0,",
)  # fmt: skip
_STATUSES = frozenset({0, 1, 2, 3})


def make(rng: Random, good: Path, work: Path) -> Case:
    """A module with a callable that gives something odd, or a script with words changed."""
    if rng.random() < 0.3:
        (work / "own.py").write_bytes(mutating.reworded((good / "script.py").read_bytes(), rng))
        form = rng.choice(("text", "json", "sarif", "github"))
        return Case(("audit", "--format", form, "own.py"), statuses=_STATUSES, json=form in ("json", "sarif"))
    model, loss, batch = _MODELS[0], _LOSSES[0], _BATCHES[0]
    for _ in range(rng.choice((1, 1, 2))):
        which = rng.randrange(4)
        model = rng.choice(_MODELS) if which == 0 else model
        loss = rng.choice(_LOSSES) if which == 1 else loss
        batch = rng.choice(_BATCHES) if which == 2 else batch
    body = f"{{'model': {model}, 'loss_fn': {loss}, 'batch': {batch}, {rng.choice(_MORE)}}}"
    text = f"import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(0)\n    return {body}\n"
    (work / "own.py").write_text(text, encoding="utf-8")
    command = rng.choice(("verify", "plan"))
    more = rng.choice(((), ("--format", "json")))
    return Case((command, rng.choice(("own:make", "own.py:make")), *more), statuses=_STATUSES, json=bool(more))
