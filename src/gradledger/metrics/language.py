"""Perplexity and accuracy of predicted tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradledger.errors import UserError

IGNORED_LABEL = -100
"""Tokens with this label count for nothing."""


@dataclass(frozen=True, slots=True)
class LanguageMetrics:
    """How well the next token is predicted.

    Args:
        num_samples: Sequences measured.
        num_tokens: Tokens that counted.
        perplexity: exp of the mean negative log-likelihood of a token.
        accuracy: Share of tokens predicted.
    """

    num_samples: int
    num_tokens: int
    perplexity: float
    accuracy: float


class LanguageMeter:
    """Adds up logits and labels, a batch at a time, so that no more than one batch's logits are kept."""

    def __init__(self) -> None:
        from torchmetrics.text import Perplexity

        self._perplexity = Perplexity(ignore_index=IGNORED_LABEL).set_dtype(torch.float64)
        self._num_samples = self._num_tokens = self._num_right = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (samples, positions, tokens), labels (samples, positions)."""
        counted = labels != IGNORED_LABEL
        self._num_samples += len(labels)
        self._num_tokens += int(counted.sum())
        self._num_right += int(((logits.argmax(dim=-1) == labels) & counted).sum())
        self._perplexity.update(logits.double().cpu(), labels.cpu())

    def absorb(self, other: LanguageMeter) -> None:
        """Add what another meter has added up."""
        self._num_samples += other._num_samples
        self._num_tokens += other._num_tokens
        self._num_right += other._num_right
        self._perplexity.merge_state(other._perplexity)

    def metrics(self) -> LanguageMetrics:
        """What all batches come to.

        Raises:
            UserError: No token counted.
        """
        if self._num_tokens == 0:
            raise UserError("there are 0 tokens to measure: give a data set that holds some")
        perplexity = self._perplexity.compute().item()
        return LanguageMetrics(
            self._num_samples,
            self._num_tokens,
            perplexity if math.isfinite(perplexity) else math.inf,
            self._num_right / self._num_tokens,
        )
