"""The configuration of a training run: what may be said, what is assumed, and what a mistake in it is told.

Nothing here imports torch. What a name such as ``mlp`` stands for, and which arguments it takes, is in
:mod:`gradledger.train.registry`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from gradledger.errors import UserError
from gradledger.printing import shown
from gradledger.reading import read_file
from gradledger.train.names import nearest

Tail = Literal["keep", "drop", "carry"]
NonFinite = Literal["raise", "skip-update", "drop-micro-batch"]
Offload = Literal["cpu"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
Sync = Literal["auto", "last", "every"]
OnWriteError = Literal["stop", "continue"]


class Choice(BaseModel):
    """A built-in's name or ``package.module:callable``, and the arguments to call it with.

    Example:
        >>> Choice.model_validate({"name": "sgd", "lr": 0.1}).arguments
        {'lr': 0.1}
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.__pydantic_extra__ or {})


_CHOICE = "a name, or a mapping with a name and its arguments"


_MOST = 10**12
"""Of what is counted: beyond it is a slip of the keyboard, and numbers that torch does not take are near."""

AUTO_SIZE = 0
"""Stands for a micro-batch size that is measured when the model is there."""


class TrainConfig(BaseModel):
    """One training run. Every field has a default: the digits, 16 samples × 4 micro-batches to an update.

    ``steps`` counts the micro-batches of a window, on each rank where there are several; ``effective_batch_size`` says
    the same in samples of all ranks.
    ``num_workers`` processes read a data set's samples; 0: the training process itself does.
    ``num_threads`` is for the CPU; null leaves torch's own number, or 1 for a model so small that more only cost.

    Example:
        >>> TrainConfig().effective_num_samples
        64
        >>> TrainConfig(micro_batch_size=8, effective_batch_size=64).num_micro_batches_per_window
        8
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str | None = Field(None, description="text without a path separator")
    output: str = Field("runs", description="text, the directory to make run directories in")
    data: Choice = Field(Choice(name="digits"), description=_CHOICE)
    model: Choice = Field(Choice(name="auto"), description=_CHOICE)
    loss: Choice = Field(Choice(name="auto"), description=_CHOICE)
    optimizer: Choice = Field(Choice(name="auto"), description=_CHOICE)
    scheduler: Choice = Field(Choice(name="none"), description=_CHOICE)
    micro_batch_size: int = Field(
        16, ge=0, le=_MOST, description=f"a whole number of at least 1, and at most {_MOST}, or auto"
    )
    steps: int | None = Field(None, ge=1, le=_MOST, description=f"a whole number of at least 1, and at most {_MOST}")
    effective_batch_size: int | None = Field(
        None, ge=1, le=_MOST, description=f"a whole multiple of micro_batch_size, and at most {_MOST}"
    )
    tail: Tail = Field("keep", description=f"one of {', '.join(get_args(Tail))}")
    clip_norm: float | None = Field(None, gt=0, allow_inf_nan=False, description="a number above 0, or null")
    clip_value: float | None = Field(None, gt=0, allow_inf_nan=False, description="a number above 0, or null")
    precision: Precision = Field("32-true", description=f"one of {', '.join(get_args(Precision))}")
    non_finite: NonFinite = Field("raise", description=f"one of {', '.join(get_args(NonFinite))}")
    checkpointing: bool = Field(False, description="true or false")
    offload: Offload | None = Field(None, description="cpu, or null")
    compile: bool = Field(False, description="true or false")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    num_threads: int | None = Field(None, ge=1, le=1024, description="a whole number from 1 to 1024, or null")
    parallel: Choice = Field(Choice(name="ddp"), description=_CHOICE)
    sync: Sync = Field("auto", description=f"one of {', '.join(get_args(Sync))}")
    num_workers: int = Field(0, ge=0, le=1024, description="a whole number of processes, from 0 to 1024")
    checkpoint_every: int | Literal["epoch"] | None = Field("epoch", description="a number of updates, epoch, or null")
    keep_checkpoints: int = Field(3, ge=1, le=_MOST, description=f"a whole number of at least 1, and at most {_MOST}")
    on_write_error: OnWriteError = Field("stop", description=f"one of {', '.join(get_args(OnWriteError))}")
    epochs: int = Field(20, ge=1, le=_MOST, description=f"a whole number of at least 1, and at most {_MOST}")
    seed: int = Field(0, ge=0, lt=2**32, description="a whole number from 0 to 4294967295")
    _num_ranks: int = PrivateAttr(1)

    @field_validator("data", "model", "loss", "optimizer", "scheduler", "parallel", mode="before")
    @classmethod
    def _as_choice(cls, value: Any, info: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "name" not in value:
            return {"name": cls.model_fields[info.field_name].default.name, **value}
        return value

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _as_size(cls, value: Any) -> Any:
        if value == AUTO_SIZE and type(value) is int:
            raise ValueError("no size")
        return AUTO_SIZE if value == "auto" else value

    @field_serializer("micro_batch_size")
    def _as_written(self, value: int) -> int | str:
        return value or "auto"

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, value: str | None) -> str | None:
        if value is not None and (value in ("", ".", "..") or re.search(r"[/\\\0]", value)):
            raise ValueError("not a file name")
        return value

    @field_validator("checkpoint_every", mode="before")
    @classmethod
    def _is_due_at_times(cls, value: Any) -> Any:
        if value is None or value == "epoch" or (type(value) is int and 1 <= value <= _MOST):
            return value
        raise ValueError("no number of updates")

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError("not a device")
        return value

    @model_validator(mode="after")
    def _settle_window(self) -> Self:
        size, samples = self.micro_batch_size, self.effective_batch_size
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(f"clip_norm ({self.clip_norm}) and clip_value ({self.clip_value}) exclude each other")
        if size == AUTO_SIZE and samples is None:
            raise ValueError(
                "micro_batch_size is auto, so effective_batch_size must say how many samples an update has; steps "
                "would leave it open"
            )
        if samples is None:
            object.__setattr__(self, "steps", self.steps or 4)
        elif self.steps is not None:
            raise ValueError(f"steps ({self.steps}) and effective_batch_size ({samples}) say the same twice: give one")
        elif size != AUTO_SIZE and samples % size:
            raise ValueError(
                f"effective_batch_size ({samples}) is not a multiple of micro_batch_size ({size}): "
                f"{_nearest(samples, size)}"
            )
        return self

    def over_ranks(self, num_ranks: int) -> Self:
        """The configuration of a run of so many ranks, with :attr:`steps` settled.

        Raises:
            UserError: The ranks cannot share the effective batch out evenly.

        Example:
            >>> config = TrainConfig(effective_batch_size=64).over_ranks(2)
            >>> config.num_ranks, config.micro_batch_size, config.steps, config.effective_num_samples
            (2, 16, 2, 64)
        """
        samples, settled = self.effective_batch_size, dict[str, int | None]()
        of_step = max(1, self.micro_batch_size) * num_ranks
        if samples is not None and samples % of_step:
            size = "" if self.micro_batch_size == AUTO_SIZE else f" × micro_batch_size ({self.micro_batch_size})"
            raise UserError(
                f"effective_batch_size ({samples}) is not a multiple of {num_ranks} ranks{size}: "
                f"{_nearest(samples, of_step)}{size and ', or another micro_batch_size'}"
            )
        if samples is not None and self.micro_batch_size != AUTO_SIZE:
            settled = {"steps": samples // of_step, "effective_batch_size": None}
        config = self.model_copy(update=settled)
        config._num_ranks = num_ranks
        return config

    def sized(self, most: int) -> Self:
        """With the largest micro-batches of at most ``most`` samples that the effective batch can be shared out into.

        Example:
            >>> config = TrainConfig(micro_batch_size="auto", effective_batch_size=48).over_ranks(2).sized(10)
            >>> config.micro_batch_size, config.steps
            (8, 3)
        """
        assert self.effective_batch_size is not None
        of_rank = self.effective_batch_size // self.num_ranks
        size = next(size for size in range(min(most, of_rank), 0, -1) if of_rank % size == 0)
        return self.model_copy(update={"micro_batch_size": size}).over_ranks(self.num_ranks)

    @property
    def stem(self) -> str:
        """What the directory of a run without a name begins with."""
        return self.data.name.replace(":", "-")

    @property
    def num_ranks(self) -> int:
        """The processes that train together."""
        return self._num_ranks

    @property
    def num_micro_batches_per_window(self) -> int:
        """Micro-batches of a full window, on each rank."""
        return self.over_ranks(self.num_ranks).steps or 1

    @property
    def effective_num_samples(self) -> int:
        """Samples of a full window, over all ranks."""
        return self.num_ranks * self.micro_batch_size * self.num_micro_batches_per_window


def _nearest(samples: int, size: int) -> str:
    """Which multiples of a size to take instead."""
    return "choose " + " or ".join(str(n * size) for n in (samples // size, samples // size + 1) if n)


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Read and check a configuration.

    Args:
        path: A YAML file. None: ``base``.
        base: Plain values. None: every default.
        overrides: ``key=value`` texts that go over the file, such as ``"optimizer.lr=0.05"``.

    Raises:
        UserError: The file cannot be read, or a key or value is wrong; the message names it and the nearest valid one.

    Example:
        >>> load_config(overrides=["epochs=3", "optimizer.lr=1e-2"]).optimizer.arguments
        {'lr': 0.01}
    """
    source = "the configuration" if path is None else str(path)
    record = dict(base or {}) if path is None else _read_yaml(Path(path))
    for override in overrides:
        _apply_override(record, override)
    return validate_config(record, source=source)


def validate_config(record: Mapping[str, Any], *, source: str = "the configuration") -> TrainConfig:
    """A checked configuration from plain values; ``source`` is what a message calls it.

    Raises:
        UserError: A key or value is wrong.
    """
    try:
        return TrainConfig.model_validate(dict(record))
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(_explain(detail) for detail in error.errors())) from None


_MOST_BYTES = 1 << 18
_MOST_BITS = 1024
_MOST_VALUES = 10_000
"""Of a file, a number, and what a file spells out: aliases of aliases grow without bound."""


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as everybody means it, and a key given twice is an error."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._num_values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count values, and what an alias stands for as if it were written out."""
        is_alias, before = self.check_event(yaml.events.AliasEvent), self._num_values
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:
            raise yaml.constructor.ConstructorError(None, None, "a value refers to itself")
        self._num_values += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._num_values - before)
        if self._num_values > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"it has more than {_MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{shown(twice[0])} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    number: int = loader.construct_yaml_int(node)
    if number.bit_length() > _MOST_BITS:
        raise yaml.constructor.ConstructorError(None, None, "a whole number is too large", node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        record = _parse_yaml(read_file(path, most_bytes=_MOST_BYTES).decode("utf-8-sig"), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: {error}") from None
    if record is None:
        return {}
    if not isinstance(record, dict):
        raise UserError(f"{path} holds {type(record).__name__} {shown(record)}: it must hold 'key: value' lines")
    return record


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from None


_SAME_WINDOW = {"steps": "effective_batch_size", "effective_batch_size": "steps"}
"""Two ways of saying one thing: an override of one replaces the other."""


def _apply_override(record: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override!r} has no key and value: write --set key=value, such as --set epochs=5")
    value = _parse_yaml(text, f"--set {override!r}") if text.strip() else None
    head, *rest = key.strip().split(".")
    if not rest:
        record.pop(_SAME_WINDOW.get(head, ""), None)
        record[head] = value
        return
    choice = _choice_record(record, head, override)
    if rest == ["name"] and choice.get("name") != value:
        choice.clear()  # the arguments belonged to the other name
    for part in rest[:-1]:
        choice = choice.setdefault(part, {})
    choice[rest[-1]] = value


def _choice_record(record: dict[str, Any], key: str, override: str) -> dict[str, Any]:
    """The mapping that ``key.argument`` goes into."""
    field = TrainConfig.model_fields.get(key)
    if field is not None and not isinstance(field.default, Choice):
        raise UserError(f"--set {override!r}: {key!r} has no parts; write --set {key}=value")
    value = record.get(key)
    record[key] = dict(value) if isinstance(value, Mapping) else {} if value is None else {"name": value}
    nested: dict[str, Any] = record[key]
    return nested


def _explain(detail: Any) -> str:
    keys, value = [str(part) for part in detail["loc"]], detail["input"]
    key = ".".join(keys)
    if detail["type"] in ("extra_forbidden", "invalid_key") and keys[0] not in TrainConfig.model_fields:
        valid = list(TrainConfig.model_fields)
        return f"unknown key {key!r} (value {shown(value)}): {nearest(key, valid)} The keys are {', '.join(valid)}"
    if not keys:
        return str(detail["msg"]).removeprefix("Value error, ")
    if keys[1:] == ["name"]:
        example = f"{keys[0]}: {TrainConfig.model_fields[keys[0]].default.name}"
        return f"{key} is {shown(value)}: it must be text, such as {example}"
    message = f"{key} is {shown(value)}: it must be {TrainConfig.model_fields[keys[0]].description}"
    choices = [each for each in get_args(TrainConfig.model_fields[keys[0]].annotation) if isinstance(each, str)]
    if detail["type"] == "literal_error" and isinstance(value, str) and choices:
        message += f"; {nearest(value, choices)}"
    return message
