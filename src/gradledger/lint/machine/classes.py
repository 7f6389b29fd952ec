"""What the text of a class or function of the file says of it: decorators, generators, records, enumerations."""

from __future__ import annotations

import ast

from gradledger.lint.machine.values import Class, Context, External, Method, Value


def marker_of(decorator: Value) -> str | None:
    """What a decorator that changes how a function is called is known as here."""
    if isinstance(decorator, Context):
        return decorator.kind
    if isinstance(decorator, Method):
        return decorator.name if decorator.name == "setter" else None
    if isinstance(decorator, External):
        last = decorator.last
        if last in ("cached_property", "property"):
            return "property"
        return last if last in ("staticmethod", "classmethod", "contextmanager", "no_grad", "inference_mode") else None
    return None


def is_generator(node: ast.AST) -> bool:
    """Does the function yield?"""
    known = getattr(node, "_yields", None)
    if known is None:
        known = any(_yields(statement) for statement in node.body) if isinstance(node.body, list) else False  # type: ignore[attr-defined]
        node._yields = known  # type: ignore[attr-defined]
    return bool(known)


def _yields(node: ast.AST) -> bool:
    if isinstance(node, ast.Yield | ast.YieldFrom):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.GeneratorExp):
        return False
    return any(_yields(child) for child in ast.iter_child_nodes(node))


def is_record(cls: Class) -> bool:
    """Is it a dataclass or a named tuple?"""
    decorated = any("dataclass" in ast.unparse(decorator) for decorator in cls.node.decorator_list)
    bases = cls.library_bases()
    return (decorated or any(base.endswith(("NamedTuple", "BaseModel")) for base in bases)) or any(
        is_record(base) for base in cls.bases if isinstance(base, Class) and "__init__" not in cls.members
    )


def is_enum(cls: Class) -> bool:
    """Is it an enumeration?"""
    return any(base.endswith("Enum") for base in cls.library_bases())


def record_fields(cls: Class) -> list[str]:
    """The fields of a dataclass, its bases' first."""
    fields = [name for base in cls.bases if isinstance(base, Class) for name in record_fields(base)]
    for statement in cls.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            fields.append(statement.target.id)
    return list(dict.fromkeys(fields))
