"""What the abstract machine computes with.

A plain Python object (number, text, list, dict …) stands for itself. The classes below stand for what has no concrete
form in source text: tensors, parameters, optimizers, and everything unknown.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradledger.ledger import Reduction
    from gradledger.lint.machine.scope import Scope

Value = Any
"""Any of the classes below, or a plain Python object."""


@dataclass(eq=False, slots=True)
class Unknown:
    """Something that the source does not tell.

    Args:
        path: How the source names it, such as ``args.fp16``; equal paths have equal truth.
        varying: It may differ from one micro-batch to the next, so its truth is no property of a run.
        leaves: Parameters that it may have been computed from.
    """

    path: str = "?"
    varying: bool = False
    leaves: frozenset[Leaf] = frozenset()
    attributes: dict[str, Value] = field(default_factory=dict)
    role: Value = None
    leaf: Leaf | None = None
    reading: Reading | None = None
    parent: Unknown | None = None

    @property
    def hint(self) -> str:
        """The last word of the path: what people call it."""
        words = re.findall(r"[A-Za-z_]\w*", self.path)
        return words[-1].lower() if words else ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a number that was read from losses says: the factors they carried, added up, and how many they were."""

    coefficient: float
    count: int
    node: ast.AST


@dataclass(eq=False, slots=True)
class Leaf:
    """A parameter, or all parameters of a layer whose inside is not looked at.

    A guess (``is_guess``) may stand for nothing: a tensor that asks for its gradient, a base class's own parameters.
    A forward pass leaves a mark of the same class in the graph (``is_pass``), so that two backward passes through one
    graph are seen; ``synced`` tells of it whether ranks will be synchronised. So does a tensor that holds the rows of
    other micro-batches, without their graph, beside its own (``spans_window``): a loss on it is the whole window's.
    """

    name: str
    shape: tuple[int | None, ...] | None = None
    requires_grad: bool = True
    has_grad: bool = False
    part_of: Leaf | None = None
    dtype: str | None = None
    hooks: list[Value] = field(default_factory=list)
    is_spent: bool = False
    is_guess: bool = False
    is_pass: bool = False
    synced: bool | None = None
    spans_window: bool = False

    @property
    def root(self) -> Leaf:
        """The whole that it is a part of, itself where it is of none."""
        leaf = self
        while leaf.part_of is not None:
            leaf = leaf.part_of
        return leaf

    def overlaps(self, other: Leaf) -> bool:
        """One is the other or a part of it."""
        return self.is_within(other) or other.is_within(self)

    def is_within(self, other: Leaf) -> bool:
        """Is this the other or a part of it?"""
        leaf: Leaf | None = self
        while leaf is not None:
            if leaf is other:
                return True
            leaf = leaf.part_of
        return False


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor: its shape where known, the parameters its graph reaches, and how it is a loss.

    Args:
        factors: The constants that multiplied the loss, outermost first, without the gradient scaler's; None unknown.
        count: How many losses were added up, where it carries no graph.
        reduction: Whether it is a mean or a sum over ``weight`` units; None: not reduced, or unknown.
        assumed: The weight was not in the source: it is one round number for every micro-batch.
        scaler: The gradient scaler whose factor is in it.
        number: Its value where it is a known number.
        gradient_of: The parameter whose ``.grad`` it was read from.
        is_positions: It counts the rows: 0, 1, 2 …
        is_loss_by_name: That it is a mean loss is only said by what the source calls it.
        coupled: Its rows were compared with one another (a similarity matrix of the micro-batch).
    """

    shape: tuple[int | None, ...] | None = None
    leaves: frozenset[Leaf] = frozenset()
    reduction: Reduction | None = None
    weight: float | None = None
    unit: str = "samples"
    assumed: bool = False
    scaler: Value = None
    number: float | None = None
    coupled: bool = False
    dtype: str | None = None
    factors: tuple[float, ...] | None = ()
    count: int = 1
    batch_norm: bool = False
    is_batch: bool = False
    gradient_of: Leaf | None = None
    is_positions: bool = False
    is_loss_by_name: bool = False

    def like(self, **changes: Any) -> Tensor:
        """A copy with changes."""
        return replace(self, **changes)

    def become(self, other: Tensor) -> None:
        """Take on all that another tensor is."""
        for part in fields(self):
            setattr(self, part.name, getattr(other, part.name))

    @property
    def scale(self) -> float | None:
        """The product of its factors; None unknown."""
        return None if self.factors is None else math.prod(self.factors)

    @property
    def rows(self) -> int | None:
        """Its first dimension."""
        return self.shape[0] if self.shape else None


@dataclass(eq=False, slots=True)
class Grad:
    """``parameter.grad``."""

    leaf: Leaf


@dataclass(eq=False, slots=True)
class Module:
    """A layer from a library. ``loss`` gives the reduction where it is a loss function."""

    kind: str
    children: list[Value] = field(default_factory=list)
    leaf: Leaf | None = None
    loss: str | None = None
    options: dict[str, Value] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)
    training: bool = True


@dataclass(eq=False, slots=True)
class Optimizer:
    """An optimizer and the account it owns; ``leaves`` is None where the source does not say which."""

    kind: str
    leaves: list[Leaf] | None = None
    name: str = ""
    groups: list[Value] = field(default_factory=list)
    accelerator: Value = None
    owned_by_framework: bool = False
    declared_at: int | None = None


@dataclass(eq=False, slots=True)
class Scheduler:
    """A learning-rate scheduler; ``horizon`` is the number of steps it was built for."""

    kind: str
    optimizer: Optimizer | None = None
    horizon: int | None = None
    accelerator: Value = None
    line: int | None = None
    interval: str = "epoch"


@dataclass(eq=False, slots=True)
class Scaler:
    """A gradient scaler. Without ``enabled`` its methods pass through."""

    enabled: bool = True
    unscaled: list[Optimizer] = field(default_factory=list)
    stepped: list[Optimizer] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Averager:
    """An exponential moving average of a model's weights."""

    kind: str


@dataclass(eq=False, slots=True)
class Loader:
    """Something that gives micro-batches: each element stands for one.

    Args:
        length: Micro-batches in a pass; None: the source does not say.
        make: Gives the micro-batch of an index.
    """

    length: int | None
    make: Callable[[int], Value]
    sized: bool = True
    dataset: Value = None
    prepared: bool = False
    batch_size: int | None = None
    endless: bool = False
    state: tuple[int, int] = (0, 0)


@dataclass(eq=False, slots=True)
class Dataset:
    """A map-style dataset: its length and what an item looks like."""

    length: int | None
    item: Callable[[int], Value]
    tensors: tuple[Value, ...] = ()


@dataclass(eq=False, slots=True)
class Iterator:
    """``iter(x)``: positions are kept, elements are made when asked for."""

    loader: Value
    position: int = 0
    started: bool = False
    source: Value = None


@dataclass(eq=False, slots=True)
class Function:
    """A function of the file, with the scope it closes over."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    bound: Value = None
    defaults: dict[str, Value] = field(default_factory=dict)
    owner: Value = None
    wrappers: tuple[Value, ...] = ()

    @property
    def name(self) -> str:
        """Its name; ``<lambda>`` where it has none."""
        return getattr(self.node, "name", "<lambda>")


@dataclass(eq=False, slots=True)
class Class:
    """A class of the file."""

    name: str
    node: ast.ClassDef
    bases: list[Value]
    members: dict[str, Value]
    scope: Scope

    def lookup(self, name: str) -> Value:
        """A member of the class or of its bases in the file; :data:`MISSING` if there is none."""
        if name in self.members:
            return self.members[name]
        for base in self.bases:
            if isinstance(base, Class):
                found = base.lookup(name)
                if found is not MISSING:
                    return found
        return MISSING

    def library_bases(self) -> list[str]:
        """Dotted names of the bases that come from elsewhere."""
        names: list[str] = []
        for base in self.bases:
            if isinstance(base, Class):
                names += base.library_bases()
            elif isinstance(base, External):
                names.append(base.name)
            elif isinstance(base, Unknown):
                names.append(base.path)
        return names


@dataclass(eq=False, slots=True)
class Instance:
    """An object of a class of the file."""

    cls: Class
    attributes: dict[str, Value] = field(default_factory=dict)
    leaf: Leaf | None = None


@dataclass(eq=False, slots=True)
class External:
    """A name from another module, such as ``torch.optim.AdamW``."""

    name: str

    @property
    def last(self) -> str:
        """What follows the last dot."""
        return self.name.rpartition(".")[2]


@dataclass(eq=False, slots=True)
class Method:
    """A method of an abstract value, not called yet."""

    receiver: Value
    name: str


@dataclass(eq=False, slots=True)
class Native:
    """A function of ours that stands for one of theirs."""

    call: Callable[..., Value]
    name: str = ""


@dataclass(eq=False, slots=True)
class Context:
    """A context manager: what it does on the way in and out."""

    kind: str
    enter: Callable[[], Value] | None = None
    leave: Callable[[], None] | None = None


@dataclass(eq=False, slots=True)
class Bag:
    """An object with attributes only: a namespace, an output, a framework object."""

    kind: str
    attributes: dict[str, Value] = field(default_factory=dict)


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
"""There is no such name or attribute."""
