"""What names from other modules do when they are called: torch's, the standard library's, the frameworks'."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradledger.ledger import Clip, Zero
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
from gradledger.lint.python import builtins
from gradledger.lint.torch import data, losses, modules, optimizers, tensors
from gradledger.lint.torch.backward import backward
from gradledger.lint.torch.tensor_methods import tensor_method

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
    if optimizers.is_scheduler_name(last) and any(optimizers.is_optimizer_like(v) for v in [*args, *kwargs.values()]):
        return optimizers.new_scheduler(machine, last, args, kwargs, node)
    if last == "GradScaler":
        return optimizers.new_scaler(machine, args, kwargs)
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
        return Tensor(None, _leaves([*args, *kwargs.values()]))
    if name.startswith("torch.func."):
        machine.book.guessed = True
    if name.startswith("torch.nn.") and last[:1].isupper():
        return modules.layer(machine, last, args, kwargs, node)
    if args and isinstance(args[0], Tensor | Leaf):
        return tensor_method(machine, args[0], last, args[1:], kwargs, node)
    if last in _SHAPED:
        return _made(args, kwargs)
    if last == "data_parallel" and len(args) > 1:
        return machine.call(args[0], [args[1]], {}, node)
    if any(modules.is_module(value) for value in args):
        machine.book.guessed = True
    if args and isinstance(args[0], list | tuple) and any(isinstance(a, Tensor) for a in args[0]):
        return Tensor(None, _leaves(args[0]))
    return Unknown(f"{name}()") if not args else _mixed(machine, args, name)


def _mixed(machine: Machine, args: Args, name: str) -> Value:
    tensors_given = [arg for arg in args if isinstance(arg, Tensor)]
    return Tensor(None, _leaves(tensors_given)) if tensors_given else Unknown(f"{name}()")


def _leaves(values: Any) -> frozenset[Leaf]:
    empty: frozenset[Leaf] = frozenset()
    return empty.union(*(tensors.as_tensor(v).leaves for v in values if isinstance(v, Tensor | Leaf)))


def _call_foreign(machine: Machine, name: str, last: str, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    from gradledger.lint.machine.calls import foreign_result, note_changed_gradients

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


def _made(args: Args, kwargs: Kwargs) -> Value:
    size = kwargs.get("size")
    given = [size] if size is not None else [a for a in args if not isinstance(a, External | Bag | str)]
    shape = tensors.shape_from(given)
    if kwargs.get("requires_grad") is True:
        return Leaf("tensor", shape, is_guess=True)
    return Tensor(shape)


def _zeros(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    made = _made(args, kwargs)
    if isinstance(made, Tensor) and made.shape in ((), (1,)):
        return made.like(shape=(), number=0.0)
    return made


def _randint(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    size = kwargs.get("size", next((arg for arg in args if isinstance(arg, tuple | list)), None))
    return Tensor(None if size is None else tensors.shape_from([size]))


def _tensor(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    data_given = args[0] if args else None
    if isinstance(data_given, Tensor):
        result: Tensor = data_given.like(leaves=frozenset())
    elif isinstance(data_given, bool | int | float):
        result = Tensor((), number=float(data_given))
    else:
        result = Tensor(_nested_shape(data_given))
    return Leaf("tensor", result.shape, is_guess=True) if kwargs.get("requires_grad") is True else result


def _nested_shape(value: Value) -> tuple[int | None, ...] | None:
    if isinstance(value, list | tuple | range):
        inner = _nested_shape(value[0]) if len(value) else ()
        return None if inner is None else (len(value), *inner)
    return None if isinstance(value, Unknown) and not value.varying else ()


def _like(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    shape = tensors.as_tensor(args[0]).shape if args else None
    return Leaf("tensor", shape, is_guess=True) if kwargs.get("requires_grad") is True else Tensor(shape)


def _zeros_like(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    made = _like(machine, args, kwargs, node)
    if args and isinstance(args[0], Leaf | Grad) and isinstance(made, Tensor):
        made.number = 0.0
    return made


def _arange(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    bounds = [tensors.number_or(arg) for arg in args]
    if kwargs.get("end") is not None:
        bounds.append(kwargs["end"])
    if all(isinstance(b, int) for b in bounds) and bounds:
        return Tensor((len(range(*bounds[:3])),), is_positions=len(bounds) == 1) if 0 not in bounds[2:3] else Tensor()
    if all(isinstance(b, int | float) for b in bounds) and bounds:
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        return Tensor((max(0, math.ceil((stop - start) / step)),))
    return Tensor((None,), is_positions=len(bounds) == 1)


def _linspace(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    steps = kwargs.get("steps", args[2] if len(args) > 2 else 100)
    return Tensor((steps if isinstance(steps, int) else None,))


def _stack(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = list(machine.iterate(args[0], node)) if args else []
    given = [tensors.as_tensor(part) for part in parts]
    inner = given[0].shape if given else ()
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    shape = None if inner is None or dim != 0 else (len(given), *inner)
    if given and given[0].reduction is not None and given[0].shape == ():
        return given[0].like(shape=(len(given),), leaves=_leaves(given), reduction=None)
    return Tensor(shape, _leaves(given), coupled=any(t.coupled for t in given))


def _cat(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    given = [tensors.as_tensor(part) for part in (machine.iterate(args[0], node) if args else [])]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    shape: tuple[int | None, ...] | None = None
    first = given[0].shape if given else None
    if first and isinstance(dim, int) and -len(first) <= dim < len(first):
        at = dim % len(first)
        parts = [t.shape[at] if t.shape and len(t.shape) > at else None for t in given]
        total = None if any(size is None for size in parts) else sum(size for size in parts if size is not None)
        shape = (*first[:at], total, *first[at + 1 :])
    leaves = _leaves(given)
    if dim == 0 and leaves and not machine.no_grad and not all(t.leaves for t in given):
        leaves |= {Leaf("window", is_pass=True, spans_window=True)}
    return Tensor(shape, leaves, coupled=any(t.coupled for t in given))


def _where(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    if len(args) < 3:
        return (Tensor((None,)),)
    a, b = tensors.as_tensor(args[1]), tensors.as_tensor(args[2])
    return Tensor(tensors.broadcast(a.shape, b.shape), a.leaves | b.leaves)


def _autograd_backward(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    targets = args[0] if args else kwargs.get("tensors")
    given = kwargs.get("grad_tensors", args[1] if len(args) > 1 else None)
    retain = kwargs.get("retain_graph", False) is True
    all_targets = list(targets) if isinstance(targets, list | tuple) else [targets]
    gradients = list(given) if isinstance(given, list | tuple) else [given] * len(all_targets)
    if len(all_targets) == 1:
        backward(machine, all_targets[0], node, gradient=gradients[0], retain=retain, inputs=kwargs.get("inputs"))
    elif all_targets:
        together = Tensor((), _leaves(all_targets), factors=None)
        backward(machine, together, node, retain=retain, inputs=kwargs.get("inputs"))
    return None


def _autograd_grad(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    outputs = args[0] if args else kwargs.get("outputs")
    inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
    keeps_graph = kwargs.get("create_graph") is True
    out = tensors.as_tensor(outputs[0] if isinstance(outputs, list | tuple) and outputs else outputs)
    leaves = out.leaves if keeps_graph else frozenset()
    if isinstance(inputs, list | tuple) or not isinstance(inputs, Tensor | Leaf):
        sources = list(machine.iterate(inputs, node)) if inputs is not None else []
        return tuple(Tensor(tensors.as_tensor(s).shape, leaves) for s in sources)
    return (Tensor(tensors.as_tensor(inputs).shape, leaves),)


def _clip_norm(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return clip(machine, args, kwargs, node, "norm")


def _clip_value(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return clip(machine, args, kwargs, node, "value")


def clip(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST, by: str) -> Value:
    """Gradients are clipped, by norm or by value."""
    given = args[0] if args else kwargs.get("parameters")
    limit = tensors.number_or(args[1] if len(args) > 1 else kwargs.get("max_norm", kwargs.get("clip_value")))
    elements = [given] if isinstance(given, Leaf | Unknown) else list(machine.iterate(given, node))
    leaves = [leaf for element in elements for leaf in modules.leaves_of(element)]
    machine.record(
        Clip,
        node,
        leaves=frozenset(leaves) or None,
        by=by,
        limit=float(limit) if isinstance(limit, int | float) else None,
    )
    return Tensor(())


def _foreach(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    for element in args[0] if args and isinstance(args[0], list | tuple) else []:
        if isinstance(element, Grad):
            tensors.zero(machine, element.leaf, node)
    return None


def _foreach_scale(op: type[ast.operator]) -> Callable[..., Value]:
    def call(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
        factor = tensors.factor_of(op, args[1] if len(args) > 1 else None)
        for element in args[0] if args and isinstance(args[0], list | tuple) else []:
            if isinstance(element, Grad):
                tensors.adjust(machine, element.leaf, factor, node)
        return None

    return call


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


def _pad_sequence(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    parts = list(machine.iterate(args[0], node)) if args else []
    return Tensor((len(parts), None), _leaves(parts))


def _randperm(machine: Machine, args: Args, kwargs: Kwargs, node: ast.AST) -> Value:
    return Tensor((args[0],)) if args and isinstance(args[0], int) else Tensor((None,))


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
    return Tensor((None,), _leaves(list(machine.iterate(args[0], node))))


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
    "torch.autograd.backward": _autograd_backward,
    "torch.autograd.grad": _autograd_grad,
    "torch.utils.checkpoint.checkpoint": _checkpoint,
    "functools.partial": _partial,
    "types.SimpleNamespace": _namespace,
    "argparse.Namespace": _namespace,
    "argparse.ArgumentParser": _parser,
    "dataclasses.field": _field,
    "copy.deepcopy": _deepcopy,
    "copy.copy": _clone_list,
    "itertools.islice": builtins.islice,
    "itertools.cycle": builtins.cycle,
    "itertools.chain": builtins.chain,
    "itertools.chain.from_iterable": builtins.chain_from_iterable,
    "itertools.batched": builtins.batched,
    "itertools.count": builtins.count,
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
    "zeros": _zeros,
    "randint": _randint,
    "tensor": _tensor,
    "as_tensor": _tensor,
    "from_numpy": _tensor,
    "Tensor": _tensor,
    "LongTensor": _tensor,
    "FloatTensor": _tensor,
    "full": lambda machine, args, kwargs, node: Tensor(tensors.shape_from(args[:1])),
    "randn_like": _like,
    "rand_like": _like,
    "ones_like": _like,
    "empty_like": _like,
    "full_like": _like,
    "zeros_like": _zeros_like,
    "arange": _arange,
    "linspace": _linspace,
    "stack": _stack,
    "cat": _cat,
    "concat": _cat,
    "where": _where,
    "randperm": _randperm,
    "pad_sequence": _pad_sequence,
    "clip_grad_norm_": _clip_norm,
    "clip_grad_norm": _clip_norm,
    "clip_grad_value_": _clip_value,
    "clip_grads_with_norm_": _clip_norm,
    "_foreach_zero_": _foreach,
    "_foreach_mul_": _foreach_scale(ast.Mult),
    "_foreach_div_": _foreach_scale(ast.Div),
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
