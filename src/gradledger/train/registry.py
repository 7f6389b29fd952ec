"""Names that a configuration may use, and the callables they stand for.

A callable's signature is its documentation: the arguments that may be given, their defaults and their kinds come from
it. Arguments that the run itself fills in (the parameters, the number of updates) are *reserved*.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gradledger.blaming import explained
from gradledger.errors import UserError
from gradledger.printing import shown
from gradledger.train.config import Choice
from gradledger.train.names import nearest


@dataclass(frozen=True)
class Registry:
    """The built-ins of one kind.

    Args:
        key: The configuration's key, such as ``"model"``.
        built_ins: Callables by name.
        num_leading: Leading parameters that the run fills in, by position.
        reserved: Further parameters that the run fills in, by name, where the callable has them.
        classes_are_made: Leading parameters belong to the call of an instance: a class is made without them.
    """

    key: str
    built_ins: Mapping[str, Callable[..., Any]]
    num_leading: int = 0
    reserved: frozenset[str] = frozenset()
    classes_are_made: bool = False

    def complete(self, choice: Choice) -> Choice:
        """The choice with every default written out.

        Raises:
            UserError: The name, or an argument's name or kind, is wrong.
        """
        parameters = self._configurable(self.find(choice.name))
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        for name, value in choice.arguments.items():
            if name not in named and not takes_any:
                raise UserError(self._unknown_argument(choice.name, name, value, list(named)))
            self._check_kind(choice.name, name, value, named.get(name))
        missing = [name for name, p in named.items() if p.default is p.empty and name not in choice.arguments]
        if missing:
            raise UserError(f"{self.key} {choice.name!r} needs {missing[0]!r}: give {self.key}.{missing[0]}")
        defaults = {name: _plain(p.default) for name, p in named.items() if p.default not in (p.empty, None)}
        return Choice.model_validate({"name": choice.name, **defaults, **choice.arguments})

    def make(self, choice: Choice, *leading: Any, **reserved: Any) -> Any:
        """Call what the choice names, with those of the run's own arguments that it takes.

        Raises:
            UserError: The call fails.
        """
        function = self.find(choice.name)
        taken = {parameter.name for parameter in _parameters(function)}
        own = {name: value for name, value in reserved.items() if name in taken}
        try:
            return function(*leading, **own, **choice.arguments)
        except (UserError, OSError):
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError | TypeError) else explained(error)
            raise UserError(f"{self.key} {choice.name!r}: {reason}") from error

    def parameters(self, choice: Choice) -> list[inspect.Parameter]:
        """The parameters of what the choice names, the run's own among them."""
        return _parameters(self.find(choice.name))

    def find(self, name: str) -> Callable[..., Any]:
        """The built-in of that name, or what ``package.module:callable`` leads to.

        Raises:
            UserError: There is none.
        """
        if name in self.built_ins:
            return self.built_ins[name]
        if ":" in name:
            return self._import(name)
        raise UserError(
            f"unknown {self.key} {name!r}: {nearest(name, self.built_ins)} The built-ins are "
            f"{', '.join(self.built_ins)}; or write package.module:callable"
        )

    def _import(self, name: str) -> Callable[..., Any]:
        module_name, _, attribute = name.partition(":")
        try:
            found: Any = import_module(module_name)
        except (ModuleNotFoundError, ValueError, TypeError) as error:
            if isinstance(error, ModuleNotFoundError) and not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the user's module was found; what it imports was not
            raise UserError(
                f"{self.key} {name!r}: no module {module_name!r}; it is looked for in this directory and among the "
                "installed packages"
            ) from None
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [item for item in vars(found) if not item.startswith("_")]
                hint = nearest(part, public) if public else "it is empty"
                raise UserError(f"{self.key} {name!r}: {module_name} has no {part!r}: {hint}")
            found = getattr(found, part)
        if not callable(found):
            raise UserError(f"{self.key} {name!r} is {type(found).__name__} {shown(found)}: it must be callable")
        checked: Callable[..., Any] = found
        return checked

    def _configurable(self, function: Callable[..., Any]) -> list[inspect.Parameter]:
        num_leading = 0 if self.classes_are_made and inspect.isclass(function) else self.num_leading
        return [p for p in _parameters(function)[num_leading:] if p.name not in self.reserved]

    def _unknown_argument(self, owner: str, name: str, value: Any, valid: list[str]) -> str:
        message = f"unknown key '{self.key}.{name}' (value {shown(value)}): "
        if not valid:
            return message + f"{self.key} {owner!r} takes no arguments"
        return message + f"{nearest(name, valid)} The {self.key} {owner!r} takes {', '.join(valid)}"

    def _check_kind(self, owner: str, name: str, value: Any, parameter: inspect.Parameter | None) -> None:
        """A value must be of the kind of the parameter's default; where that is None or missing, anything goes."""
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        if value is None or default is None:
            return
        for kind, (types, what) in _KINDS.items():
            if isinstance(default, kind):
                right = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
                if not right:
                    example = f"such as {_plain(default)!r}"
                    raise UserError(
                        f"{self.key}.{name} is {shown(value)}: {self.key} {owner!r} takes {what}, {example}"
                    )
                return


_KINDS: dict[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
    str: (str, "text"),
    tuple: ((list, tuple), "a list"),
}


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature: takes what it is given
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
