"""Turns away files that hold no training loop before anything is built from them."""

from __future__ import annotations

import re

_LOOP = re.compile(
    rb"\.(manual_)?backward\(|scale_loss|loss_scaler\(|training_step|(?<![\w.])Trainer\(|autograd\.backward"
)
_FRAMEWORK = re.compile(rb"torch|accelerate|lightning|fabric|transformers|deepspeed|apex|optim")


def may_train(source: bytes) -> bool:
    """Can there be a training loop in this text?

    Example:
        >>> may_train(b"import torch; loss.backward()"), may_train(b"print('backward')")
        (True, False)
    """
    return _LOOP.search(source) is not None and _FRAMEWORK.search(source) is not None
