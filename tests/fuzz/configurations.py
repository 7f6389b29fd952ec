"""Target: the YAML file of ``train`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from random import Random
from shutil import copy

import yaml

from fuzz import hostile, mutating, places
from fuzz.case import RUN_STATUSES, Case

_CHOICES = ("data", "model", "loss", "optimizer", "scheduler", "parallel")
_KEYS = (
    *_CHOICES, "name", "output", "micro_batch_size", "steps", "effective_batch_size", "tail", "clip_norm",
    "clip_value",
    "precision", "non_finite", "checkpointing", "offload", "device", "num_threads", "sync", "num_workers",
    "checkpoint_every", "keep_checkpoints", "on_write_error", "epochs", "seed",
)  # fmt: skip
_NAMES = (
    "auto", "none", "linear", "mlp", "cnn", "transformer", "cross-entropy", "mse", "l1", "huber", "adamw", "adam",
    "lbfgs", "sgd",
    "rmsprop", "sparseadam", "adafactor", "muon", "cosine", "warm-up-cosine", "one-cycle", "step", "plateau", "ddp",
    "fsdp2", "tiny:data",
    "tiny:make", "tiny:loss_fn", "torch.nn:Linear", "torch.nn:Module", "builtins:list", "builtins:dict", "json:loads",
    "tiny:", ":", "a:b:c",
    "....", "torch.optim:SGD", "torch.optim.lr_scheduler:ExponentialLR",
)  # fmt: skip
_ARGUMENTS = (
    "lr", "momentum", "weight_decay", "betas", "nesterov", "hidden", "num_layers", "dropout", "label_smoothing",
    "class_weights",
    "warm_up", "gamma", "step_size", "num_samples", "heads", "foreach", "fused", "maximize", "params", "num_updates",
    "last_epoch",
    "input_shape", "reduction", "eps", "channels", "width", "depth", "min_lr", "factor",
)  # fmt: skip


def _aliases_of_aliases() -> str:
    """Small as a file, and without end when it is written out."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12)]
    return "\n".join(["a0: &a0 [x]", *levels, "name: *a11\n"])


_YAML = (
    "a: &a [*a]\n",
    _aliases_of_aliases(),
    "!!python/object/apply:os.system ['true']\n", "? [a, b]\n: c\n", "? {a: b}\n: c\n", "<<: {epochs: 1}\n",
    "<<: *x\n", "---\n---\n",
    "epochs: 2001-01-01\n", "epochs: 0x" + "f" * 9000 + "\n", "epochs: " + "9" * 6000 + "\n", "epochs: 1:30:00\n",
    "seed: !!int x\n",
    "output: !!binary aGVsbG8=\n", "epochs: !!set {1, 2}\n", "name: !!null x\n", "optimizer: {name: sgd, lr: .nan}\n",
    "optimizer: {name: sgd, lr: .inf}\n", "optimizer: {1: 2}\n", "[" * 3000, "{a: " * 3000, "- " * 3000,
    "a:\n" * 3000, "1: 2\n", "null: 1\n",
    "on: off\n", "\t- x", "%YAML 9.9\n---\nepochs: 1\n", "epochs: !<tag:x> 1\n", "name: 'a\\0b'\n",
    "name: \"a\\0b\"\n", "name: \"\\e[31m\"\n",
)  # fmt: skip


def make(rng: Random, good: Path, work: Path) -> Case:
    """A configuration of few samples with values, keys or bytes changed; or something else in its place."""
    copy(good / "tiny.py", work / "tiny.py")
    path = work / "config.yaml"
    raw = (good / "config.yaml").read_bytes()
    kind = rng.randrange(10)
    if kind < 6:
        raw = _with_other_values(yaml.safe_load(raw), rng)
    elif kind < 8:
        raw = mutating.damaged(raw, rng)
    elif kind < 9:
        raw = rng.choice((raw, b"")) + rng.choice(_YAML).encode()
    path.write_bytes(raw)
    if kind == 9:
        places.put_something_odd(path, rng)
    command = ["train", "config.yaml"]
    if rng.random() < 0.1:
        command = ["compare", "config.yaml", "--seeds", "1", "--arms", rng.choice(("accumulated", "default", "broken"))]
    return Case(
        (*command, "--set", "epochs=1") if rng.random() < 0.5 or _takes_long(raw) else tuple(command),
        encoding=rng.choice(("utf-8", "utf-8", "ascii")),
        writes=("runs", *_output_of(raw)),
        statuses=RUN_STATUSES,
    )


def _with_other_values(config: dict[str, object], rng: Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(_KEYS)
        if key in _CHOICES and rng.random() < 0.8:
            name = rng.choice(_NAMES)
            arguments = {rng.choice(_ARGUMENTS): _value(rng) for _ in range(rng.randrange(3))}
            old = config.get(key)
            keep = isinstance(old, dict) and rng.random() < 0.5
            config[key] = {**(old if keep else {"name": name}), **arguments}  # type: ignore[dict-item]
        else:
            config[key] = rng.choice((_value(rng), rng.choice(_NAMES), *_FITTING.get(key, ())))
    try:
        return yaml.safe_dump(config, allow_unicode=rng.random() < 0.5).encode("utf-8", errors="surrogatepass")
    except RecursionError:
        return b"a: " + b"[" * 20_000


_FITTING: dict[str, tuple[object, ...]] = {
    "tail": ("keep", "drop", "carry"),
    "precision": ("bf16-mixed", "16-mixed", "bf16-true"),
    "non_finite": ("skip-update", "drop-micro-batch"),
    "checkpointing": (True,),
    "offload": ("cpu",),
    "steps": (1, 7, 10**30),
    "effective_batch_size": (6, 12, 10**30),
    "micro_batch_size": ("auto", 1, 10**30, 2**62),
    "num_threads": (1, 10**30),
    "num_workers": (10**30, 2**31),
    "checkpoint_every": ("epoch", None, 1, 10**30),
    "keep_checkpoints": (1, 10**30),
}


def _value(rng: Random) -> object:
    return hostile.number(rng) if rng.random() < 0.4 else hostile.value(rng)


def _settings_in(raw: bytes) -> dict[object, object]:
    try:
        record = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return {}
    return record if isinstance(record, dict) else {}


def _output_of(raw: bytes) -> list[str]:
    """Where the configuration asks for its runs."""
    output = _settings_in(raw).get("output")
    return [str(Path(output))] if isinstance(output, str) else []


def _takes_long(raw: bytes) -> bool:
    """A run of many epochs is no hang, nor is one on data that were not asked to be small."""
    settings = _settings_in(raw)
    epochs, data = settings.get("epochs", 20), settings.get("data")
    return "tiny" not in str(data)[:200] or (isinstance(epochs, int) and epochs > 3)
