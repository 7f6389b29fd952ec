"""Calls: functions and classes of the file, and everything else by what it is."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from gradledger.lint.frameworks import dispatch
from gradledger.lint.machine import classes, numbers, readings
from gradledger.lint.machine.foreign import foreign_result, note_changed_gradients, note_unseen, result_of_unknown
from gradledger.lint.machine.machine import ReturnValue
from gradledger.lint.machine.scope import Scope
from gradledger.lint.machine.values import (
    MISSING,
    Averager,
    Bag,
    Class,
    Context,
    External,
    Function,
    Grad,
    Instance,
    Leaf,
    Loader,
    Method,
    Module,
    Native,
    Optimizer,
    Scaler,
    Scheduler,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.python import methods
from gradledger.lint.torch import losses, module_methods, modules, optimizers, roles, scalers, schedulers
from gradledger.lint.torch.names import call_external
from gradledger.lint.torch.tensor_methods import grad_method, tensor_method

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def call(machine: Machine, function: Value, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``function(*args, **kwargs)``."""
    if isinstance(function, Function):
        return call_function(machine, function, args, kwargs, node)
    if isinstance(function, Native):
        return function.call(machine, args, kwargs, node)
    if isinstance(function, Method):
        return call_method(machine, function.receiver, function.name, args, kwargs, node)
    if isinstance(function, External):
        for value in [*args, *kwargs.values()]:
            readings.show(machine, value)
        return call_external(machine, function, args, kwargs, node)
    if isinstance(function, Class):
        return instantiate(machine, function, args, kwargs, node)
    if isinstance(function, Module | Instance):
        return _call_model(machine, function, args, kwargs, node)
    if isinstance(function, Unknown):
        return _call_unknown(machine, function, args, kwargs, node)
    if isinstance(function, Scaler):
        return scalers.call_scaler(machine, function, args, kwargs, node)
    if isinstance(function, Bag):
        return dispatch.call_bag(machine, function, args, kwargs, node)
    if isinstance(function, Averager):
        return optimizers.averager_method(machine, function, "update", args, kwargs, node)
    if isinstance(function, Context) and args:
        return args[0]
    if isinstance(function, Tensor):
        return foreign_result(machine, "tensor()", [function, *args])
    return Unknown()


def _call_model(machine: Machine, model: Module | Instance, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    is_sharded = id(model) in machine.sharded
    machine.in_parallel += is_sharded
    try:
        if isinstance(model, Module):
            return modules.call_module(machine, model, args, kwargs, node)
        return modules.instance_call(machine, model, args, kwargs, node)
    finally:
        machine.in_parallel -= is_sharded


def call_function(machine: Machine, function: Function, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """Run a function of the file."""
    if isinstance(function.bound, Instance | Class):
        args = [function.bound, *args]
    scope = Scope(function.scope, function=function.name)
    bind(machine, function, args, kwargs, scope)
    if function.owner is not None and args:
        scope.instance, scope.owner = args[0], function.owner
    machine.executed.add(function.node)
    if isinstance(function.node, ast.Lambda):
        return machine.evaluate(function.node.body, scope)
    if classes.is_generator(function.node):
        return _start_generator(machine, function, scope)
    if "no_grad" in function.wrappers:
        with machine.without_grad():
            return _run(machine, function.node.body, scope)
    own = optimizers.owned_by(args[0]) if args and function.name == "step" and function.owner is not None else None
    return _run(machine, function.node.body, scope) if own is None else _own_step(machine, function, scope, own, node)


def _run(machine: Machine, body: list[ast.stmt], scope: Scope) -> Value:
    try:
        machine.execute(body, scope)
    except ReturnValue as result:
        return result.value
    return None


def _own_step(machine: Machine, function: Function, scope: Scope, own: Optimizer, node: ast.AST) -> Value:
    """The step of an optimizer whose class is the file's own: whatever it does, it consumes the gradients."""
    before = machine.book.num_steps
    result = _run(machine, getattr(function.node, "body", []), scope)
    if machine.book.num_steps == before:
        optimizers.step(machine, own, node, scaler=False)
    return result


def _start_generator(machine: Machine, function: Function, scope: Scope) -> Value:
    assert not isinstance(function.node, ast.Lambda)
    body = function.node.body

    def work(generator: Value) -> None:
        scope.generator = generator
        _run(machine, body, scope)

    return machine.generators.start(work)


def bind(machine: Machine, function: Function, args: Args, kwargs: Kwargs, scope: Scope) -> None:
    """Bind a call's arguments to parameters; what is not given and has no default is unknown by its name."""
    arguments = function.node.args
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
    rest = dict(kwargs)
    spread = rest.pop("**", None)
    for name, value in zip(names, args, strict=False):
        scope.names[name] = value
    if arguments.vararg is not None:
        scope.names[arguments.vararg.arg] = tuple(args[len(names) :])
    for name in [*names[len(args) :], *(argument.arg for argument in arguments.kwonlyargs)]:
        if name in rest:
            scope.names[name] = rest.pop(name)
        elif name in function.defaults and spread is None:
            scope.names[name] = function.defaults[name]
        else:
            scope.names[name] = numbers.named(name)
    if arguments.kwarg is not None:
        scope.names[arguments.kwarg.arg] = {name: value for name, value in rest.items() if name not in names}


def instantiate(machine: Machine, cls: Class, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``Class(…)``."""
    instance = Instance(cls)
    if classes.is_enum(cls):
        return args[0] if args else Unknown(cls.name)
    if classes.is_record(cls):
        return _record(machine, cls, instance, args, kwargs, node)
    init = cls.lookup("__init__")
    if isinstance(init, Function):
        machine.call(init, [instance, *args], kwargs, node)
    elif modules.is_module(instance):
        _init_container(machine, instance, args, node)
    dispatch.made(machine, instance, args, kwargs)
    return instance


def _init_container(machine: Machine, instance: Instance, args: Args, node: ast.AST) -> None:
    for index, child in enumerate(args):
        instance.attributes[str(index)] = child


def _record(machine: Machine, cls: Class, instance: Instance, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    fields = classes.record_fields(cls)
    values = dict(zip(fields, args, strict=False)) | kwargs
    for name in fields:
        if name in values:
            instance.attributes[name] = values[name]
            continue
        default = cls.lookup(name)
        if isinstance(default, Bag) and default.kind == "field":
            factory = default.attributes.get("default_factory", MISSING)
            given = default.attributes.get("default", Unknown(name))
            default = given if factory is MISSING else machine.call(factory, [], {}, node)
        instance.attributes[name] = numbers.named(name) if default is MISSING else default
    after = cls.lookup("__post_init__")
    if isinstance(after, Function):
        machine.call(after, [instance], {}, node)
    return instance


def call_method(machine: Machine, receiver: Value, name: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``receiver.name(…)`` where the file does not define it."""
    if isinstance(receiver, Tensor | Leaf):
        return tensor_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Grad):
        return grad_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Optimizer):
        return optimizers.optimizer_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Scheduler):
        return schedulers.scheduler_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Scaler):
        return scalers.scaler_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Averager):
        return optimizers.averager_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Bag):
        return dispatch.bag_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Instance):
        return _instance_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Module):
        return module_methods.module_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Loader):
        return methods.loader_method(machine, receiver, name, args, kwargs, node)
    if isinstance(receiver, Context):
        return methods.context_method(machine, receiver, name, args, kwargs, node)
    return methods.native_method(machine, receiver, name, args, kwargs, node)


def _instance_method(
    machine: Machine, instance: Instance, name: str, args: Args, kwargs: Kwargs, node: ast.AST
) -> Value:
    framework = dispatch.instance_method(machine, instance, name, args, kwargs, node)
    if framework is not MISSING:
        return framework
    if modules.is_module(instance):
        return module_methods.module_method(machine, instance, name, args, kwargs, node)
    note_unseen(machine, f"self.{name}", args, node)
    return result_of_unknown(machine, name, args, kwargs)


def _call_unknown(machine: Machine, function: Unknown, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    for value in [*args, *kwargs.values()]:
        readings.show(machine, value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "." in function.path:
        role = roles.role_call(machine, function, node, args, kwargs)
        if role is not MISSING:
            return role
    if isinstance(function.role, Method):
        return call_method(machine, function.role.receiver, function.role.name, args, kwargs, node)
    hint = function.hint
    if "scaler" in hint:
        return scalers.call_scaler(machine, scalers.scaler_of(function), args, kwargs, node)
    if ("criterion" in hint or "loss" in hint) and "compute" not in hint and args:
        return losses.unknown_loss(machine, args, kwargs)
    if any(isinstance(value, Tensor) for value in [*args, *kwargs.values()]) or "**" in kwargs:
        return modules.call_unknown(machine, function, args, kwargs, node)
    note_unseen(machine, function.path, args, node)
    note_changed_gradients(machine, function.path, [*args, *kwargs.values()], node)
    return result_of_unknown(machine, function.path, args, kwargs)
