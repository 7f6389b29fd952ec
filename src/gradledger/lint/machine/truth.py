"""Truth of conditions, known or chosen, and which of them can matter to gradients."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from gradledger.lint.machine.values import Tensor, Unknown, Value

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

GRADIENT_WORDS = frozenset(
    [
        "backward",
        "manual_backward",
        "step",
        "zero_grad",
        "unscale_",
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_gradients",
        "clip_grad_norm",
        "clip_grad_value",
        "update",
        "no_sync",
        "grad",
        "accumulate",
        "set_requires_gradient_sync",
        "require_backward_grad_sync",
        "update_parameters",
        "optimizer_step",
        "training_step",
        "no_backward_sync",
        "toggle_optimizer",
    ]
)
_ROLE_NAMES = re.compile(r"sched|scaler|optim|sync|boundary|is_last|do_step|should_step|update_now|accum", re.I)
_RARELY = re.compile(r"resum|exists|is_?file|is_?dir|restore|dry_?run|debug|_only$|trained", re.I)
_OBJECTS = re.compile(r"optim|model|net$|loader|criterion|loss_f|dataset|^self$", re.I)


class Relevance:
    """Tells whether a branch can matter to gradients, from its text alone."""

    def __init__(self, tree: ast.AST) -> None:
        self._matters: dict[int, bool] = {}
        self._functions = _gradient_functions(tree)

    def matters(self, node: ast.AST) -> bool:
        """Does anything below this node touch gradients or leave the loop?"""
        key = id(node)
        if key not in self._matters:
            self._matters[key] = any(self._is_gradient_work(child) for child in ast.walk(node))
        return self._matters[key]

    def touches_gradients(self, node: ast.AST) -> bool:
        """Does anything below this node touch gradients?"""
        return any(_names_gradient_work(child, self._functions) for child in ast.walk(node))

    def _is_gradient_work(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Break | ast.Continue | ast.Return | ast.Raise | ast.Yield):
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_ROLE_NAMES.search(ast.unparse(target)) for target in targets):
                return True
        return _names_gradient_work(node, self._functions)


def _names_gradient_work(node: ast.AST, functions: frozenset[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in GRADIENT_WORDS or node.attr in functions
    return isinstance(node, ast.Name) and node.id in functions


def _gradient_functions(tree: ast.AST) -> frozenset[str]:
    """Names of the file's functions that do gradient work, directly or through one another."""
    bodies: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = bodies.setdefault(node.name, set())
            for child in ast.walk(node):
                if isinstance(child, ast.Attribute):
                    names.add(child.attr)
                elif isinstance(child, ast.Name):
                    names.add(child.id)
    working = {name for name, used in bodies.items() if used & GRADIENT_WORDS}
    while True:
        more = {name for name, used in bodies.items() if name not in working and used & working}
        if not more:
            return frozenset(working - {"__init__"})
        working |= more


def truth(machine: Machine, value: Value, node: ast.AST | None, branch: ast.AST | None) -> bool:
    """The truth of a value; that of an unknown one is chosen, the same throughout a run."""
    if isinstance(value, Tensor):
        if value.number is not None:
            return bool(value.number)
        return _chosen(machine, ast.unparse(node) if node is not None else "a tensor", True, True, branch)
    if not isinstance(value, Unknown):
        try:
            return bool(value)
        except (TypeError, ValueError):
            return True
    if _OBJECTS.search(value.hint) and not re.search(r"\s|use|has|is_|with|enable|no_", value.path):
        return True
    return _chosen(machine, value.path, True, value.varying, branch)


def is_none(machine: Machine, value: Value, branch: ast.AST | None = None) -> bool:
    """``value is None``."""
    if isinstance(value, Unknown):
        if _OBJECTS.search(value.hint) or value.varying:
            return False
        return not _chosen(machine, value.path, True, False, branch)
    return value is None


def _chosen(machine: Machine, flag: str, default: bool, varying: bool, branch: ast.AST | None) -> bool:
    if isinstance(branch, ast.If):
        if _leaves_by_force(branch.body, varying):
            return False
        default = default and not _is_exceptional(flag, branch.body)
        if not machine.relevance.matters(branch):
            return default
    return machine.choices.truth(flag, default=default, varying=varying)


def _is_exceptional(flag: str, body: list[ast.stmt]) -> bool:
    """Is it what a run rarely does, so that the first one should not: to resume, to leave early?"""
    return _RARELY.search(flag) is not None or isinstance(body[-1], ast.Continue | ast.Break | ast.Return)


def _leaves_by_force(body: list[ast.stmt], varying: bool) -> bool:
    last = body[-1]
    if isinstance(last, ast.Raise):
        return True
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        name = ast.unparse(last.value.func)
        if name in ("exit", "sys.exit", "quit", "os._exit"):
            return True
    return varying and isinstance(last, ast.Continue | ast.Break | ast.Return)
