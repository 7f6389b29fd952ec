"""What names from other modules do when they are called: torch's, the standard library's, the frameworks'."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Zero
from gradledger.lint.frameworks import dispatch
from gradledger.lint.machine import contexts
from gradledger.lint.machine.values import (
    MISSING,
    Averager,
    Bag,
    Context,
    External,
    Function,
    Grad,
    Leaf,
    Module,
    Native,
    Optimizer,
    Tensor,
    Unknown,
    Value,
)
from gradledger.lint.python import builtins, itertools
from gradledger.lint.torch import data, losses, modules, optimizers, scalers, schedulers, tensors
from gradledger.lint.torch.creation import CREATION, of_size
from gradledger.lint.torch.gradients import GRADIENTS, autograd_backward, autograd_grad
from gradledger.lint.torch.tensor_methods import grad_method, tensor_method

if TYPE_CHECKING:
    from gradledger.lint.machine.machine import Machine

Args = list[Value]
Kwargs = dict[str, Value]


def call_external(machine: Machine, function: External, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    """``package.name(…)``."""
    name, last = function.name, function.last
    framework = dispatch.call_external(machine, function, args, kwargs, node)
    if framework is not MISSING:
        return framework
    handler = _FULL_NAMES.get(name) or (_LAST_NAMES.get(last) if _is_torch_like(name) else None)
    if handler is not None:
        return handler(machine, args, kwargs, node)
    root = name.partition(".")[0]
    if root == "math":
        made = builtins.math_function(last)
        return Unknown(name) if made is None else made(machine, args, kwargs, node)
    if last in optimizers.OPTIMIZERS and (args or kwargs):
        return optimizers.new_optimizer(machine, last, args, kwargs, node)
    if schedulers.is_scheduler_name(last) and any(optimizers.is_optimizer_like(v) for v in [*args, *kwargs.values()]):
        return schedulers.new_scheduler(machine, last, args, kwargs, node)
    if last == "GradScaler":
        return scalers.new_scaler(machine, args, kwargs)
    if last in builtins.BUILTINS and root == "builtins":
        return machine.call(builtins.BUILTINS[last], args, kwargs, node)
    if root == "torch":
        return _call_torch(machine, name, last, args, kwargs, node)
    return _call_foreign(machine, name, last, args, kwargs, node)


def _is_torch_like(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "apex", "torchvision")


def _call_torch(machine: Machine, name: str, last: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if last in losses.FUNCTIONS:
        return losses.loss(machine, last, args, kwargs, node, reduction=losses.reduction_of(kwargs))
    if name.startswith("torch.distributions."):
        return Tensor(None, tensors.joint_leaves([*args, *kwargs.values()]))
    if name.startswith("torch.func."):
        machine.book.guessed = True
    if name.startswith("torch.nn.") and last[:1].isupper():
        return modules.layer(machine, last, args, kwargs, node)
    if isinstance(target := kwargs.get("out"), Grad):
        tensors.adjust(machine, target.leaf, None, node)
        return target
    if args and isinstance(args[0], Tensor | Leaf):
        return tensor_method(machine, args[0], last, args[1:], kwargs, node)
    if args and isinstance(args[0], Grad):
        return grad_method(machine, args[0], last, args[1:], kwargs, node)
    if last in _SHAPED:
        return of_size(args, kwargs)
    if last == "data_parallel" and len(args) > 1:
        return machine.call(args[0], [args[1]], {}, node)
    if any(modules.is_module(value) for value in args):
        machine.book.guessed = True
    if args and isinstance(args[0], list | tuple) and any(isinstance(a, Tensor) for a in args[0]):
        return Tensor(None, tensors.joint_leaves(args[0]))
    return Unknown(f"{name}()") if not args else _mixed(machine, args, name)


def _mixed(machine: Machine, args: Args, name: str) -> Value:
    tensors_given = [arg for arg in args if isinstance(arg, Tensor)]
    return Tensor(None, tensors.joint_leaves(tensors_given)) if tensors_given else Unknown(f"{name}()")


def _call_foreign(machine: Machine, name: str, last: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.foreign import foreign_result, note_changed_gradients

    if last == "AverageMeter":
        return Unknown(name)
    if last in ("EMA", "ModelEma", "ModelEmaV2", "ModelEmaV3", "ExponentialMovingAverage", "EMAModel"):
        return Averager(last)
    values = [*args, *kwargs.values()]
    if last[:1].isupper() and not any(isinstance(v, Tensor) for v in values):
        if "loss" in last.lower() or "criterion" in last.lower():
            return Unknown(f"{name}.criterion")
        return Unknown(_instance_path(name, last))
    if ("loss" in last.lower() or "criterion" in last.lower()) and any(isinstance(v, Tensor) for v in values):
        return losses.unknown_loss(machine, args, kwargs)
    in_loop = bool(machine.loop_lines)
    if in_loop and any(optimizers.is_optimizer_like(value) for value in args) and not _harmless(name):
        machine.book.unclear.append(f"line {getattr(node, 'lineno', 0)} hands an optimizer to {name}, elsewhere")
    note_changed_gradients(machine, name, values, node)
    return foreign_result(machine, f"{name}()", values)


def _instance_path(name: str, last: str) -> str:
    return f"{last}()"


def _harmless(name: str) -> bool:
    return any(
        word in name.lower()
        for word in (
            "save",
            "load",
            "log",
            "print",
            "write",
            "checkpoint",
            "lr",
            "get",
            "learning_rate",
            "sched",
            "build",
        )
    )


def _compile(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return args[0] if args else Native(lambda machine, args, kwargs, node: args[0])


def _wrap_parallel(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    inner = args[0] if args else kwargs.get("module")
    return Module("DistributedDataParallel", [inner]) if not isinstance(inner, Unknown) else inner


def _same(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return args[0] if args else next(iter(kwargs.values()), None)


def _shard(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else kwargs.get("module")
    machine.sharded.add(id(value))
    return value


def _averaged(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Averager("AveragedModel")


def _no_grad(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return args[0] if args and isinstance(args[0], Function) else contexts.no_grad(machine)


def _set_grad_enabled(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    wanted = args[0] if args else kwargs.get("mode", True)
    on = machine.truth(wanted, node) if not isinstance(wanted, Unknown) else True
    return contexts.enable_grad(machine) if on else contexts.no_grad(machine)


def _context(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Context("null")


def _nullcontext(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else None
    return Context("null", lambda: value)


def _finite(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor((), number=1.0)


def _not_finite(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor((), number=0.0)


def _false(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return False


def _checkpoint(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = {name: value for name, value in kwargs.items() if name not in ("use_reentrant", "preserve_rng_state")}
    return machine.call(args[0], args[1:], given, node) if args else Unknown()


def _partial(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    function, given, named = args[0], args[1:], dict(kwargs)
    return Native(lambda m, more, more_named, n: m.call(function, [*given, *more], {**named, **more_named}, n))


def _namespace(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Bag("namespace", dict(kwargs))


def _parser(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Bag("parser", {"__arguments__": Bag("namespace")})


def _field(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Bag("field", dict(kwargs))


def _deepcopy(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else None
    if modules.is_module(value):
        copied = [Leaf(leaf.name, leaf.shape, leaf.requires_grad) for leaf in modules.leaves_of(value)]
        return Module("copy", copied, options={})
    return Unknown(value.path, value.varying, value.leaves) if isinstance(value, Unknown) else value


def _clone_list(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    value = args[0] if args else None
    return list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value


def _parameters_to_vector(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor((None,), tensors.joint_leaves(list(machine.iterate(args[0], node))))


def _zero_all(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    for target in args:
        if isinstance(target, Optimizer):
            machine.record(Zero, node, optimizer=target)
    return None


def _tqdm(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if not args and "iterable" not in kwargs:
        return Unknown("progress")
    return args[0] if args else kwargs["iterable"]


def _defaultdict(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return {}


def _deque(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return list(machine.iterate(args[0], node)) if args else []


def _manager(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return contexts.exit_stack(machine)


_SHAPED = frozenset(["randn", "rand", "empty", "ones", "zeros", "full", "normal", "randn_like"])


_FULL_NAMES: dict[str, Callable[..., Any]] = {
    "torch.autograd.backward": autograd_backward,
    "torch.autograd.grad": autograd_grad,
    "torch.utils.checkpoint.checkpoint": _checkpoint,
    "functools.partial": _partial,
    "types.SimpleNamespace": _namespace,
    "argparse.Namespace": _namespace,
    "argparse.ArgumentParser": _parser,
    "dataclasses.field": _field,
    "copy.deepcopy": _deepcopy,
    "copy.copy": _clone_list,
    "itertools.islice": itertools.islice,
    "itertools.cycle": itertools.cycle,
    "itertools.chain": itertools.chain,
    "itertools.chain.from_iterable": itertools.chain_from_iterable,
    "itertools.batched": itertools.batched,
    "itertools.count": itertools.count,
    "contextlib.nullcontext": _nullcontext,
    "contextlib.suppress": lambda *_: Context("suppress"),
    "contextlib.ExitStack": _manager,
    "collections.defaultdict": _defaultdict,
    "collections.OrderedDict": builtins.make_dict,
    "collections.deque": _deque,
    "sys.exit": builtins.end_program,
    "tqdm.tqdm": _tqdm,
    "tqdm.auto.tqdm": _tqdm,
    "tqdm.notebook.tqdm": _tqdm,
    "rich.progress.track": _tqdm,
    "torch.optim.swa_utils.AveragedModel": _averaged,
    "torch.compile": _compile,
}

_LAST_NAMES: dict[str, Callable[..., Any]] = {
    **CREATION,
    **GRADIENTS,
    "DistributedDataParallel": _wrap_parallel,
    "DataParallel": _wrap_parallel,
    "FullyShardedDataParallel": _wrap_parallel,
    "fully_shard": _shard,
    "no_grad": _no_grad,
    "inference_mode": _no_grad,
    "enable_grad": lambda machine, *_: contexts.enable_grad(machine),
    "set_grad_enabled": _set_grad_enabled,
    "autocast": _context,
    "isfinite": _finite,
    "isnan": _not_finite,
    "isinf": _not_finite,
    "is_available": _false,
    "is_initialized": _false,
    "is_tensor": lambda machine, args, *_: isinstance(args[0], Tensor) if args else False,
    "parameters_to_vector": _parameters_to_vector,
    "DataLoader": data.loader,
    "TensorDataset": data.tensor_dataset,
    "Subset": data.subset,
    "ConcatDataset": data.concatenated,
    "random_split": data.random_split,
    "BatchSampler": data.batch_sampler,
    "default_collate": _same,
}
