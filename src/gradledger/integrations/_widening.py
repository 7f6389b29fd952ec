"""Gradients of low-precision parameters, accumulated in a wider type until the window is complete."""

from __future__ import annotations

import torch
from torch import Tensor

from gradledger.engine.gradients import graph_leaves
from gradledger.engine.precision import check_accumulate_dtype, set_gradient_dtype
from gradledger.errors import UserError
from gradledger.integrations._weighing import find_ranks


class Widening:
    """The parameters whose gradients are of the accumulation type.

    Args:
        dtype: The accumulation type; None leaves gradients as they are.

    Raises:
        UserError: This torch cannot accumulate in a type of its own.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        check_accumulate_dtype(dtype)
        self._dtype = dtype
        self._widened: dict[int, Tensor] = {}

    def widen(self, loss: Tensor) -> None:
        """Before a backward: the gradients that it reaches accumulate in the wide type.

        Raises:
            UserError: There are several ranks, whose wrappers reduce in the parameters' own type.
        """
        if self._dtype is None:
            return
        if find_ranks() is not None:
            raise UserError("accumulate_dtype= is not supported over several ranks")
        for leaf in graph_leaves(loss):
            if id(leaf) not in self._widened and leaf.dtype != self._dtype:
                set_gradient_dtype(leaf, self._dtype)
                self._widened[id(leaf)] = leaf

    def narrow(self) -> None:
        """After a window's last backward: gradients are of the type that the optimizer needs."""
        for parameter in self._widened.values():
            set_gradient_dtype(parameter, parameter.dtype)
        self._widened.clear()
