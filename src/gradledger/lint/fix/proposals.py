"""For each kind of finding, the edits that may mend it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gradledger.findings import Finding
from gradledger.ledger import Step
from gradledger.lint.fix.state import State

if TYPE_CHECKING:
    from gradledger.lint.fix.edits import Edit

HORIZONS = frozenset({"T_max", "total_steps", "num_training_steps", "total_iters", "steps_per_epoch"})
"""The arguments of schedulers that say how many steps they were built for."""


def proposals(state: State, finding: Finding) -> Iterator[str]:
    """The texts that might do without a finding, the likeliest first."""
    from gradledger.lint.fix.edits import edited

    make = _PROPOSALS.get(finding.rule)
    if make is None or finding.location is None:
        return
    for edits in make(state, finding, finding.location.line):
        text = edited(state.text, edits)
        if text is not None:
            yield text


def _step_lines(state: State, account: str) -> list[int]:
    """The lines that step an account, in order of appearance."""
    steps = [e for ledger in state.ledgers for e in ledger if isinstance(e, Step) and e.account == account]
    return list(dict.fromkeys(step.location.line for step in steps if step.location))


def _zero_after_step(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    from gradledger.lint.fix.edits import Insert

    call = _call_at(state.tree, line)
    if call is None or not isinstance(call.func, ast.Attribute) or call.func.attr != "step":
        return
    through_scaler = bool(call.args) and isinstance(call.args[0], ast.Name | ast.Attribute)
    target = ast.unparse(call.args[0] if through_scaler else call.func.value)
    yield [Insert(f"{target}.zero_grad()", "after", line)]


def _move_after_step(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    from gradledger.lint.fix.edits import Move

    for step in _step_lines(state, finding.account):
        if _function_around(state.tree, line) is _function_around(state.tree, step):
            yield [Move(line, "after", step)]


def _move_update_after_step(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """With several optimizers the update belongs after the last of them, which one line does not tell."""
    if all(len(ledger.accounts) == 1 for ledger in state.ledgers):
        yield from _move_after_step(state, finding, line)


def _move_before_step(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    from gradledger.lint.fix.edits import Move

    for step in _step_lines(state, finding.account):
        if _function_around(state.tree, line) is _function_around(state.tree, step):
            yield [Move(line, "before", step)]


def _divide(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Divide where backward is called, by what the boundary counts to."""
    from gradledger.lint.fix.edits import Replace

    call = _call_at(state.tree, line)
    if call is None or not isinstance(call.func, ast.Attribute):
        return
    if call.func.attr == "backward" and not call.args:
        loss = call.func.value
    elif call.args:
        loss = call.args[0]
    else:
        return
    for count in _window_counts(state, finding.account, line):
        divided = f"{ast.unparse(loss)} / {count}"
        yield [Replace(line, ast.unparse(loss), divided if call.args else f"({divided})")]


def _divide_by_what_is_there(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Divide the short last window by the micro-batches that it holds."""
    from gradledger.lint.fix.edits import Replace

    loop = _enumerating_loop(state.tree, line)
    if loop is None:
        return
    index, loader = loop
    for count in _window_counts(state, finding.account, line):
        for division in _divisions_by(state.tree, count, line):
            held = f"min({count}, len({loader}) - {index} // {count} * {count})"
            old = ast.get_source_segment(state.text, division)
            left = ast.get_source_segment(state.text, division.left)
            if old is not None and left is not None:
                yield [Replace(division.lineno, old, f"{left} / {held}")]


def _divisions_by(tree: ast.Module, count: str, line: int) -> Iterator[ast.BinOp]:
    """The divisions by a name in the function around a line."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and ast.unparse(node.right) == count):
            continue
        if _function_around(tree, node.lineno) is _function_around(tree, line):
            yield node


def _multiply_back(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Report the loss before its division."""
    from gradledger.lint.fix.edits import Replace

    for node in ast.walk(state.tree):
        reads = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "item"
        if reads and getattr(node, "lineno", 0) == line:
            code = ast.get_source_segment(state.text, node)
            for count in _window_counts(state, finding.account, line):
                if code is not None:
                    yield [Replace(line, code, f"{code} * {count}")]


def _drop_retain(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    from gradledger.lint.fix.edits import Replace

    call = _call_at(state.tree, line)
    if call is None:
        return
    kept = [keyword for keyword in call.keywords if keyword.arg != "retain_graph"]
    code = ast.get_source_segment(state.text, call)
    if code is not None and len(kept) < len(call.keywords):
        yield [Replace(line, code, ast.unparse(ast.Call(call.func, call.args, kept)))]


def _divide_once(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Take one of the divisions away."""
    from gradledger.lint.fix.edits import Replace

    for node in ast.walk(state.tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
            continue
        if _function_around(state.tree, node.lineno) is _function_around(state.tree, line):
            old, left = (ast.get_source_segment(state.text, part) for part in (node, node.left))
            if old is not None and left is not None:
                yield [Replace(node.lineno, old, left)]


def _count_updates(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Build the scheduler for the updates: what it was built for, over the window's length, rounded up."""
    from gradledger.lint.fix.edits import Replace

    for node in ast.walk(state.tree):
        if not (isinstance(node, ast.Call) and node.lineno == line):
            continue
        horizons = [keyword.value for keyword in node.keywords if keyword.arg in HORIZONS] + node.args[1:]
        for horizon in horizons:
            code = ast.get_source_segment(state.text, horizon)
            for count in _window_counts(state, finding.account, line):
                if code is not None:
                    yield [Replace(horizon.lineno, code, f"-(-({code}) // {count})")]


def _unscale_first(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Unscale before the clip: by moving what comes too late, as nobody may unscale twice."""
    from gradledger.lint.fix.edits import Insert, Move

    late = [node.lineno for node in ast.walk(state.tree) if isinstance(node, ast.Expr) and _is_unscaling(node.value)]
    for unscaling in late:
        yield [Move(unscaling, "before", line)]
    for step in _step_lines(state, finding.account) if not late else ():
        call = _call_at(state.tree, step)
        if call is not None and isinstance(call.func, ast.Attribute) and call.args:
            scaler, optimizer = ast.unparse(call.func.value), ast.unparse(call.args[0])
            yield [Insert(f"{scaler}.unscale_({optimizer})", "before", line)]


def _is_unscaling(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "unscale_"


def _step_through_scaler(state: State, finding: Finding, line: int) -> Iterator[list[Edit]]:
    """Step by the scaler that scales the loss, and let it update where nothing does yet."""
    from gradledger.lint.fix.edits import Insert, Replace

    call = _call_at(state.tree, line)
    if call is None or not isinstance(call.func, ast.Attribute) or call.args:
        return
    old, optimizer = ast.get_source_segment(state.text, call), ast.unparse(call.func.value)
    for scaler in _scalers(state.tree):
        if old is not None:
            stepping = Replace(line, old, f"{scaler}.step({optimizer})")
            updates = f"{scaler}.update()" in state.text
            yield [stepping] if updates else [stepping, Insert(f"{scaler}.update()", "after", line)]


def _scalers(tree: ast.Module) -> list[str]:
    """What ``X.scale(loss)`` is called on."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return list(
        dict.fromkeys(ast.unparse(f.value) for f in calls if isinstance(f, ast.Attribute) and f.attr == "scale")
    )


def _window_counts(state: State, account: str, line: int) -> list[str]:
    """What the conditions around an account's steps count to: the ``k`` of ``(i + 1) % k == 0``."""
    counts: dict[str, None] = {}
    for step in _step_lines(state, account):
        for node in ast.walk(state.tree):
            if isinstance(node, ast.If) and _holds(node, step):
                for part in ast.walk(node.test):
                    if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod):
                        counts[ast.unparse(part.right)] = None
                    elif isinstance(part, ast.Compare) and isinstance(part.comparators[0], ast.Name | ast.Attribute):
                        counts[ast.unparse(part.comparators[0])] = None
            elif isinstance(node, ast.For) and _is_range(node.iter) and not _holds(node, step):
                counts[ast.unparse(node.iter.args[-1])] = None  # type: ignore[attr-defined]
    steps = _step_lines(state, account)
    return [count for count in counts if any(_is_visible(state.tree, count, line, step) for step in steps)]


def _is_visible(tree: ast.Module, code: str, line: int, step: int) -> bool:
    """Do the names in an expression beside a step mean the same at another line?"""
    if _function_around(tree, line) is _function_around(tree, step):
        return True
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    known = {node.id for statement in assigned for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return names <= known | {"self"}


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _is_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and len(node.args) == 1


def _enumerating_loop(tree: ast.Module, line: int) -> tuple[str, str] | None:
    """Index and loader of the ``for i, batch in enumerate(loader)`` around a line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and node.lineno <= line <= (node.end_lineno or 0):
            call, target = node.iter, node.target
            is_enumerate = isinstance(call, ast.Call) and ast.unparse(call.func) == "enumerate" and len(call.args) == 1
            if is_enumerate and isinstance(target, ast.Tuple) and isinstance(target.elts[0], ast.Name):
                return target.elts[0].id, ast.unparse(call.args[0])  # type: ignore[attr-defined]
    return None


def _call_at(tree: ast.Module, line: int) -> ast.Call | None:
    """The call that makes up the statement at a line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and node.lineno == line and isinstance(node.value, ast.Call):
            return node.value
    return None


def _function_around(tree: ast.Module, line: int) -> ast.AST | None:
    """The innermost function that holds a line; None at the module's level."""
    found: ast.AST | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            found = node
    return found


_PROPOSALS: dict[str, Callable[[State, Finding, int], Iterator[list[Edit]]]] = {
    "stale-gradient": _zero_after_step,
    "discarded-gradient": _move_after_step,
    "scheduler-per-micro-batch": _move_after_step,
    "scheduler-before-step": _move_after_step,
    "scaler-update-inside-window": _move_update_after_step,
    "average-per-micro-batch": _move_after_step,
    "clip-inside-window": _move_before_step,
    "clip-after-step": _move_before_step,
    "unnormalized-loss": _divide,
    "uneven-window-scale": _divide_by_what_is_there,
    "double-normalized-loss": _divide_once,
    "scheduler-horizon": _count_updates,
    "clip-scaled-gradient": _unscale_first,
    "step-without-scaler": _step_through_scaler,
    "loss-log-scale": _multiply_back,
    "retained-graph": _drop_retain,
}
