"""Names and what they are bound to."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradledger.lint.machine.values import MISSING, Value


@dataclass(eq=False, slots=True)
class Scope:
    """One level of names: a module, a function call or a class body.

    Args:
        parent: Where a name is looked for next.
        outer: Names that assignments send elsewhere (``global``, ``nonlocal``), with the scope they go to.
        instance: The object that ``super()`` speaks of, in a method.
    """

    parent: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)
    outer: dict[str, Scope] = field(default_factory=dict)
    instance: Value = None
    owner: Value = None
    is_class: bool = False
    generator: Value = None
    function: str = ""

    def get(self, name: str) -> Value:
        """The value of a name; MISSING where it has none."""
        scope: Scope | None = self
        first = True
        while scope is not None:
            if (first or not scope.is_class) and name in scope.names:
                return scope.names[name]
            first = False
            scope = scope.parent
        return MISSING

    def set(self, name: str, value: Value) -> None:
        """Bind a name here, or where ``global`` and ``nonlocal`` send it."""
        self.outer.get(name, self).names[name] = value

    def module(self) -> Scope:
        """The outermost scope."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def home_of(self, name: str) -> Scope:
        """The nearest enclosing scope that binds the name, else the module's."""
        scope = self.parent
        while scope is not None and scope.parent is not None:
            if name in scope.names and not scope.is_class:
                return scope
            scope = scope.parent
        return self.module()
