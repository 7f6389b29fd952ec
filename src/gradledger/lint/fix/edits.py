"""Edits of source text by statement: comments, formatting and everything else stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

Where = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Move:
    """The statement at a line goes before or after another one."""

    line: int
    where: Where
    anchor: int


@dataclass(frozen=True, slots=True)
class Insert:
    """A new statement goes before or after the one at a line."""

    code: str
    where: Where
    anchor: int


@dataclass(frozen=True, slots=True)
class Remove:
    """The statement at a line goes away."""

    line: int


@dataclass(frozen=True, slots=True)
class Replace:
    """An expression within a line gives way to another: the first on that line whose code is ``old``."""

    line: int
    old: str
    new: str


Edit = Move | Insert | Remove | Replace


def edited(text: str, edits: Sequence[Edit]) -> str | None:
    """The text with the edits made; None where a line does not hold one plain statement of its own."""
    wrapper = MetadataWrapper(cst.parse_module(text))
    finder = _Finder({line for edit in edits for line in _lines_of(edit)})
    wrapper.visit(finder)
    if any(finder.counts.get(line, 0) != 1 for edit in edits for line in _lines_of(edit)):
        return None
    editor = _Editor(edits, finder.statements, text)
    changed = wrapper.visit(editor)
    return changed.code if editor.done == len(edits) and changed.code != text else None


def _lines_of(edit: Edit) -> list[int]:
    if isinstance(edit, Move):
        return [edit.line, edit.anchor]
    return [edit.anchor] if isinstance(edit, Insert) else [edit.line] if isinstance(edit, Remove) else []


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, lines: set[int]) -> None:
        self.lines = lines
        self.statements: dict[int, cst.SimpleStatementLine] = {}
        self.counts: dict[int, int] = {}

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:  # noqa: N802 - libcst's name
        line = _line(self, node)
        if line in self.lines:
            self.counts[line] = self.counts.get(line, 0) + len(node.body)
            self.statements[line] = node


class _Editor(cst.CSTTransformer):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, edits: Sequence[Edit], statements: dict[int, cst.SimpleStatementLine], text: str) -> None:
        self.edits = edits
        self.lines = text.splitlines()
        self.emptied: set[cst.CSTNode] = set()
        self.statements = statements
        self.done = 0
        self.replaced: set[Edit] = set()

    def leave_SimpleStatementLine(  # noqa: N802 - libcst's name
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.FlattenSentinel[cst.SimpleStatementLine] | cst.RemovalSentinel:
        line = _line(self, original_node)
        before: list[cst.SimpleStatementLine] = []
        after: list[cst.SimpleStatementLine] = []
        gone = False
        for edit in self.edits:
            gone = gone or (isinstance(edit, Move | Remove) and edit.line == line)
            self.done += isinstance(edit, Remove) and edit.line == line
            if isinstance(edit, Move | Insert) and edit.anchor == line:
                (before if edit.where == "before" else after).append(self._statement(edit))
                self.done += 1
        kept = [] if gone else [updated_node]
        parts = [*before, *kept, *after]
        if not parts:
            return cst.RemoveFromParent()
        return parts[0] if len(parts) == 1 else cst.FlattenSentinel(parts)

    def _statement(self, edit: Move | Insert) -> cst.SimpleStatementLine:
        if isinstance(edit, Insert):
            return cast("cst.SimpleStatementLine", cst.parse_statement(edit.code))
        return self.statements[edit.line]

    def leave_IndentedBlock(  # noqa: N802 - libcst's name
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        if updated_node.body:
            return updated_node
        self.emptied.add(original_node)
        return updated_node.with_changes(body=[cst.parse_statement("pass")])

    def leave_If(  # noqa: N802 - libcst's name
        self, original_node: cst.If, updated_node: cst.If
    ) -> cst.If | cst.RemovalSentinel:
        """A condition that guards nothing any more goes too."""
        is_plain = updated_node.orelse is None and original_node.body in self.emptied
        return cst.RemoveFromParent() if is_plain and not self._is_elif(original_node) else updated_node

    def _is_elif(self, node: cst.If) -> bool:
        position = self.get_metadata(PositionProvider, node)
        return self.lines[position.start.line - 1].lstrip().startswith("elif")

    def on_leave(  # type: ignore[override]  # libcst types it by node
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]:
        result = super().on_leave(original_node, updated_node)
        if isinstance(original_node, cst.BaseExpression) and isinstance(result, cst.BaseExpression):
            for edit in self.edits:
                if isinstance(edit, Replace) and edit not in self.replaced and self._is_at(original_node, edit):
                    self.replaced.add(edit)
                    self.done += 1
                    return cst.parse_expression(edit.new)
        return result

    def _is_at(self, node: cst.BaseExpression, edit: Replace) -> bool:
        position = self.get_metadata(PositionProvider, node)
        return bool(position.start.line == edit.line) and cst.Module([]).code_for_node(node) == edit.old


def _line(visitor: cst.CSTVisitor | cst.CSTTransformer, node: cst.CSTNode) -> int:
    return int(visitor.get_metadata(PositionProvider, node).start.line)
