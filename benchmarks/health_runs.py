"""Small real trainings, healthy and sick, whose ledgers the health rules are measured on.

A plain PyTorch loop trains and writes down what it does; nothing of the engine takes part, so that a loop can be as
wrong as it likes. Every run is a function of its recipe and its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn

from gradledger.ledger import Backward, Entry, EpochEnd, EpochStart, Evaluate, Metric, Step, Zero


@dataclass(frozen=True)
class Split:
    """Tensors to train on and to validate on; the names of classes."""

    train_inputs: Tensor
    train_labels: Tensor
    validation_inputs: Tensor
    validation_labels: Tensor
    num_outputs: int
    names: tuple[str, ...] = ()


def sgd(lr: float, momentum: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    """Stochastic gradient descent."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def adam(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    """AdamW."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


DEFAULT_OPTIMIZER = sgd(0.1)


def constant(_: float) -> float:
    """The learning rate stays."""
    return 1.0


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        name: What it is called in tables.
        data: Makes the data from a seed.
        model: Makes the model from the number of inputs and outputs.
        expected: The rule that must speak; empty for a healthy run.
        optimizer: Makes the optimizer from parameters.
        fault: "", "never-zeroed", or "unowned": the optimizer owns another model.
        schedule: The learning rate's factor at a fraction of the run.
    """

    name: str
    data: Callable[[int], Split]
    model: Callable[[int, int], nn.Module]
    expected: str = ""
    optimizer: Callable[[Any], torch.optim.Optimizer] = DEFAULT_OPTIMIZER
    micro_batch_size: int = 16
    steps: int = 4
    epochs: int = 12
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    fault: str = ""
    schedule: Callable[[float], float] = constant


def train(recipe: Recipe, seed: int) -> list[Entry]:
    """Train, and return what happened."""
    data = recipe.data(seed)
    torch.manual_seed(seed)
    num_inputs, num_samples = data.train_inputs[0].numel(), len(data.train_inputs)
    model = recipe.model(num_inputs, data.num_outputs)
    owned = model if recipe.fault != "unowned" else recipe.model(num_inputs, data.num_outputs)
    optimizer = recipe.optimizer(owned.parameters())
    rate = optimizer.param_groups[0]["lr"]
    generator = torch.Generator().manual_seed(seed)
    num_planned = recipe.epochs * -(-num_samples // (recipe.micro_batch_size * recipe.steps))
    entries: list[Entry] = []
    micro_batch = update = 0
    for epoch in range(recipe.epochs):
        entries.append(EpochStart(epoch=epoch, update=update, micro_batch=micro_batch))
        order = torch.randperm(num_samples, generator=generator)
        for window in order.split(recipe.micro_batch_size * recipe.steps):
            for rows in window.split(recipe.micro_batch_size):
                micro_batch += 1
                loss = recipe.loss(model(data.train_inputs[rows]), data.train_labels[rows])
                scale = len(rows) / len(window)
                (loss * scale).backward()
                numbers = {"weight": float(len(rows)), "scale": scale, "loss": loss.item()}
                entries.append(Backward(micro_batch=micro_batch, update=update, reduction="mean", **numbers))
            optimizer.step()
            entries.append(Step(micro_batch=micro_batch, update=update))
            update += 1
            optimizer.param_groups[0]["lr"] = rate * recipe.schedule(update / num_planned)
            if recipe.fault != "never-zeroed":
                model.zero_grad()
                entries.append(Zero(micro_batch=micro_batch, update=update))
        entries.append(EpochEnd(epoch=epoch, update=update, micro_batch=micro_batch))
        entries += evaluate(recipe, model, data, micro_batch, update)
    return entries


def evaluate(recipe: Recipe, model: nn.Module, data: Split, micro_batch: int, update: int) -> list[Entry]:
    """Measure on the validation part: loss, accuracy, and the recall of each class."""
    model.eval()
    with torch.no_grad():
        outputs = model(data.validation_inputs)
        values = {"loss": recipe.loss(outputs, data.validation_labels).item()}
    model.train()
    if data.names:
        right = outputs.argmax(1) == data.validation_labels
        values["accuracy"] = right.float().mean().item()
        for index, name in enumerate(data.names):
            of_class = data.validation_labels == index
            values[f"support/{name}"] = float(of_class.sum())
            values[f"recall/{name}"] = right[of_class].float().mean().item() if of_class.any() else math.nan
    place = {"micro_batch": micro_batch, "update": update}
    marks: list[Entry] = [Evaluate(**place)]
    return marks + [Metric(name=name, value=value, split="validation", **place) for name, value in values.items()]


def _split(inputs: Any, labels: Any, seed: int, num_train: int, num_outputs: int, names: tuple[str, ...] = ()) -> Split:
    order = np.random.default_rng(seed).permutation(len(inputs))
    kept, held_out = order[:num_train], order[num_train:]
    inputs = torch.tensor(np.asarray(inputs), dtype=torch.float32)
    labels = torch.tensor(np.asarray(labels), dtype=torch.float32 if num_outputs == 1 else torch.int64)
    return Split(inputs[kept], labels[kept], inputs[held_out], labels[held_out], num_outputs, names)


def digits(num_train: int = 1200, label_noise: float = 0.0) -> Callable[[int], Split]:
    """Handwritten digits, a share of the training labels wrong on request."""

    def make(seed: int) -> Split:
        inputs, labels = load_digits(return_X_y=True)
        split = _split(inputs / 16.0, labels, seed, num_train, 10, tuple("0123456789"))
        wrong = torch.rand(num_train, generator=torch.Generator().manual_seed(seed)) < label_noise
        split.train_labels[wrong] = (split.train_labels[wrong] + 1 + seed % 9) % 10
        return split

    return make


def tumours(positive_fraction: float | None = None) -> Callable[[int], Split]:
    """Breast-cancer measurements; malignant ones (1) made rare on request."""

    def make(seed: int) -> Split:
        inputs, labels = load_breast_cancer(return_X_y=True)
        labels = 1 - labels
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        if positive_fraction is not None:
            positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
            few = np.random.default_rng(seed).permutation(positives)[: round(len(negatives) * positive_fraction)]
            chosen = np.concatenate([negatives, few])
            inputs, labels = inputs[chosen], labels[chosen]
        return _split(inputs, labels, seed, int(len(inputs) * 0.6), 2, ("benign", "malignant"))

    return make


def patients(seed: int) -> Split:
    """Diabetes: a number to regress, much noise."""
    inputs, target = load_diabetes(return_X_y=True)
    inputs, target = inputs / inputs.std(0), (target - target.mean()) / target.std()
    return _split(inputs, target[:, None], seed, 340, 1)


def blobs(
    num_classes: int = 4, num_train: int = 800, spread: float = 1.0, shares: Any = None
) -> Callable[[int], Split]:
    """Gaussian clouds in 12 dimensions; ``shares`` makes classes unlike in number."""

    def make(seed: int) -> Split:
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(num_classes, 12)) * 1.5
        labels = rng.choice(num_classes, size=num_train + 600, p=shares)
        inputs = centers[labels] + rng.normal(size=(len(labels), 12)) * spread
        return _split(inputs, labels, seed, num_train, num_classes, tuple(f"class {i}" for i in range(num_classes)))

    return make


def heavy_tails(seed: int) -> Split:
    """A linear relation whose noise has rare, great outliers."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(1600, 10))
    target = inputs @ rng.normal(size=(10, 1)) + rng.standard_t(3, size=(1600, 1))
    return _split(inputs, target, seed, 1200, 1)


def characters(seed: int) -> Split:
    """Of 20 letters each follows the one before by fixed odds: the next after four letters."""
    rng = np.random.default_rng(seed)
    odds = rng.dirichlet(np.full(20, 0.15), size=20)
    letters = [0]
    for _ in range(9000):
        letters.append(rng.choice(20, p=odds[letters[-1]]))
    windows = np.lib.stride_tricks.sliding_window_view(np.array(letters), 5)[::4]
    inputs = np.eye(20)[windows[:, :4]].reshape(len(windows), 80)
    return _split(inputs, windows[:, 4], seed, 1800, 20)


def linear(num_inputs: int, num_outputs: int) -> nn.Module:
    """One layer."""
    return nn.Linear(num_inputs, num_outputs)


def mlp(*widths: int, dropout: float = 0.0, batch_norm: bool = False) -> Callable[[int, int], nn.Module]:
    """Layers with ReLU between."""

    def make(num_inputs: int, num_outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        before = num_inputs
        for width in widths:
            layers += [nn.Linear(before, width), *([nn.BatchNorm1d(width)] if batch_norm else []), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            before = width
        return nn.Sequential(*layers, nn.Linear(before, num_outputs))

    return make


def convolutions(_: int, num_outputs: int) -> nn.Module:
    """For 8 × 8 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, num_outputs),
    )  # fmt: skip


def cosine(fraction: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


def warm_up(fraction: float) -> float:
    """A tenth of the run up, the rest down."""
    return min(fraction / 0.1, 1.0) * (1.0 - max(fraction - 0.1, 0.0))


def runaway(fraction: float) -> float:
    """Fine until half of the run, then a thousandfold."""
    return 1.0 if fraction < 0.5 else 10.0 ** (6 * (fraction - 0.5))


_MSE, _HUBER = nn.functional.mse_loss, nn.functional.huber_loss

HEALTHY = (
    Recipe("digits, mlp, sgd", digits(), mlp(64)),
    Recipe("digits, mlp, momentum", digits(), mlp(64), optimizer=sgd(0.03, 0.9)),
    Recipe("digits, mlp, adam", digits(), mlp(64), optimizer=adam(2e-3)),
    Recipe("digits, deep mlp, adam", digits(), mlp(64, 64, 64), optimizer=adam(1e-3)),
    Recipe("digits, linear", digits(), linear),
    Recipe("digits, dropout", digits(), mlp(64, dropout=0.3), optimizer=adam(2e-3)),
    Recipe("digits, batch norm", digits(), mlp(64, batch_norm=True)),
    Recipe("digits, convolutions", digits(), convolutions, optimizer=adam(3e-3), epochs=8),
    Recipe("digits, cosine", digits(), mlp(64), optimizer=sgd(0.2), schedule=cosine),
    Recipe("digits, warm-up", digits(), mlp(64), optimizer=adam(5e-3), schedule=warm_up),
    Recipe("digits, small batch", digits(600), mlp(32), optimizer=sgd(0.03), micro_batch_size=4, steps=1, epochs=6),
    Recipe("digits, large batch", digits(), mlp(64), optimizer=sgd(0.3, 0.9), micro_batch_size=64, epochs=30),
    Recipe("digits, noisy labels", digits(label_noise=0.1), mlp(16), optimizer=sgd(0.05)),
    Recipe("digits, few updates", digits(), mlp(64), optimizer=adam(5e-3), micro_batch_size=64, epochs=5),
    Recipe("tumours, linear", tumours(), linear, epochs=15),
    Recipe("tumours, mlp", tumours(), mlp(16), optimizer=sgd(0.05), epochs=15),
    Recipe("patients, linear", patients, linear, optimizer=sgd(0.05), loss=_MSE, epochs=15),
    Recipe("patients, small batch", patients, linear, optimizer=sgd(0.01), loss=_MSE, micro_batch_size=4, steps=2),
    Recipe("blobs, mlp", blobs(), mlp(32)),
    Recipe("blobs, overlapping", blobs(spread=3.0), linear, optimizer=sgd(0.05)),
    Recipe("blobs, one rare", blobs(2, shares=(0.95, 0.05)), mlp(16), optimizer=adam(5e-3), epochs=20),
    Recipe("heavy tails, huber", heavy_tails, linear, optimizer=sgd(0.05), loss=_HUBER),
    Recipe("heavy tails, squared", heavy_tails, linear, optimizer=sgd(0.02), loss=_MSE),
    Recipe("characters, linear", characters, linear, optimizer=adam(5e-3), epochs=8),
)
"""Trainings that nobody would worry about."""

SICK = (
    Recipe("digits, never zeroed", digits(), mlp(64), "unstable-loss", fault="never-zeroed"),
    Recipe("digits, linear, never zeroed", digits(), linear, "stale-gradient", fault="never-zeroed"),
    Recipe("tumours, never zeroed", tumours(), mlp(16), "stale-gradient", sgd(0.05), fault="never-zeroed", epochs=20),
    Recipe("blobs, never zeroed", blobs(), mlp(32), "stale-gradient", fault="never-zeroed"),
    Recipe("characters, never zeroed", characters, linear, "unstable-loss", sgd(0.5), fault="never-zeroed", epochs=8),
    Recipe("digits, rate far too high", digits(), mlp(64), "unstable-loss", sgd(8.0)),
    Recipe("digits, adam too high", digits(), mlp(64, 64), "unstable-loss", adam(0.3)),
    Recipe("tumours, rate too high", tumours(), mlp(16, 16), "unstable-loss", sgd(10.0), epochs=20),
    Recipe("patients, diverging", patients, linear, "unstable-loss", sgd(0.8), loss=_MSE, epochs=20),
    Recipe("heavy tails, diverging", heavy_tails, mlp(32), "unstable-loss", sgd(0.6), loss=_MSE),
    Recipe("digits, rate runs away", digits(), mlp(64), "unstable-loss", schedule=runaway),
    Recipe("blobs, rate runs away", blobs(), mlp(32), "unstable-loss", schedule=runaway),
    Recipe("digits, rate zero", digits(), mlp(64), "unstable-loss", sgd(0.0)),
    Recipe("digits, rate too low", digits(), mlp(64), "unstable-loss", sgd(1e-5)),
    Recipe("digits, unowned model", digits(), mlp(64), "unstable-loss", fault="unowned"),
    Recipe("tumours, unowned model", tumours(), linear, "unstable-loss", fault="unowned", epochs=20),
    Recipe("characters, unowned model", characters, linear, "unstable-loss", fault="unowned", epochs=4),
    Recipe("digits, 60 samples", digits(60, 0.4), mlp(128), "overfitting", adam(5e-3), 8, 2, epochs=60),
    Recipe("digits, noise by heart", digits(200, 0.3), mlp(256), "overfitting", adam(3e-3), 8, 4, epochs=60),
    Recipe("blobs, by heart", blobs(4, 100, 3.0), mlp(128), "overfitting", adam(5e-3), 8, 2, epochs=60),
    Recipe("patients, by heart", patients, mlp(128, 128), "overfitting", adam(3e-3), loss=_MSE, epochs=60),
    Recipe("blobs, one in 25", blobs(2, 800, 6.0, (0.96, 0.04)), mlp(32), "hidden-recall", sgd(0.05), epochs=8),
    Recipe("blobs, one in 33", blobs(2, 800, 6.0, (0.97, 0.03)), mlp(16), "hidden-recall", sgd(0.05), epochs=8),
)  # fmt: skip
"""Trainings with something wrong, and the rule that has to say so."""
