"""Data to train on: the built-ins, and what a user's own callable may return.

A training set and a validation set share no sample, and nothing that is fitted (the mean and scale of a feature)
sees the validation set.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from gradledger.errors import UserError

Task = Literal["classification", "regression", "language-model"]
TASKS: tuple[Task, ...] = ("classification", "regression", "language-model")

IGNORED_LABEL = -100
"""A label that counts for nothing: what pads the last piece of a text."""


@dataclass(frozen=True)
class Data:
    """A training set and a validation set.

    Args:
        task: What is learnt.
        train: Pairs of inputs and label.
        validation: As ``train``.
        num_outputs: Classes, values to regress, or characters of the alphabet.
        class_names: One name a class; empty for other tasks.
        input_shape: The shape of one sample's inputs.
    """

    task: Task
    train: Dataset[Any]
    validation: Dataset[Any]
    num_outputs: int
    class_names: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()


def digits(*, validation_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """The 1797 handwritten digits that come with scikit-learn: 8 × 8 grey values, 10 classes.

    Args:
        validation_fraction: Share of the samples held out, drawn alike from each class.
        split_seed: Decides which samples are held out.
    """
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    held_out, kept = _split(labels, validation_fraction, split_seed)
    scaled = (inputs / 16.0).reshape(-1, 8, 8)
    return Data(
        "classification",
        _tensors(scaled[kept], labels[kept]),
        _tensors(scaled[held_out], labels[held_out]),
        num_outputs=10,
        class_names=tuple(str(digit) for digit in range(10)),
        input_shape=(8, 8),
    )


def breast_cancer(
    *, validation_fraction: float = 0.2, split_seed: int = 0, positive_fraction: float | None = None
) -> Data:
    """The 569 tumours that come with scikit-learn: 30 measurements, benign (0) or malignant (1, the positives).

    Args:
        validation_fraction: Share of the samples held out, drawn alike from each class.
        split_seed: Decides which samples are held out, and which are drawn again.
        positive_fraction: Make malignant tumours this rare, such as 0.02. In the training set, malignant ones are left
            out; in the validation set, benign ones are repeated, so that recall is still measured on every malignant
            tumour held out.
    """
    from sklearn.datasets import load_breast_cancer

    inputs, target = load_breast_cancer(return_X_y=True)
    labels = 1 - target
    held_out, kept = _split(labels, validation_fraction, split_seed)
    if positive_fraction is not None:
        if not 0 < positive_fraction < 1:
            raise UserError(f"data.positive_fraction is {positive_fraction}: it must be between 0 and 1")
        generator = np.random.default_rng(split_seed)
        kept = _with_fewer_positives(kept, labels, positive_fraction, generator)
        held_out = _with_more_negatives(held_out, labels, positive_fraction, generator)
    mean, scale = inputs[kept].mean(axis=0), inputs[kept].std(axis=0)
    scaled = (inputs - mean) / scale
    return Data(
        "classification",
        _tensors(scaled[kept], labels[kept]),
        _tensors(scaled[held_out], labels[held_out]),
        num_outputs=2,
        class_names=("benign", "malignant"),
        input_shape=(30,),
    )


def diabetes(*, validation_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """The 442 patients that come with scikit-learn: 10 measurements and the progression a year later, a number.

    Args:
        validation_fraction: Share of the samples held out.
        split_seed: Decides which samples are held out.
    """
    from sklearn.datasets import load_diabetes

    inputs, target = load_diabetes(return_X_y=True)
    held_out, kept = _split(np.zeros(len(target)), validation_fraction, split_seed)
    mean, scale = inputs[kept].mean(axis=0), inputs[kept].std(axis=0)
    scaled = (inputs - mean) / scale
    target = (target - target[kept].mean()) / target[kept].std()
    return Data(
        "regression",
        _tensors(scaled[kept], target[kept, None]),
        _tensors(scaled[held_out], target[held_out, None]),
        num_outputs=1,
        input_shape=(10,),
    )


def characters(*, text: str, context_length: int = 64, validation_fraction: float = 0.1) -> Data:
    """A text file, read a character at a time: each sample is ``context_length`` characters and the ones that follow.

    The end of the text is held out. The last piece of either part is padded with labels that count for nothing, so
    micro-batches hold unlike numbers of characters and are weighted by them.

    Args:
        text: Path of the file, UTF-8.
        context_length: Characters in a sample.
        validation_fraction: Share of the text held out.
    """
    try:
        content = Path(text).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"data.text: {text} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"data.text: {text} is not UTF-8 text: {error}") from None
    _check_fraction(validation_fraction)
    if context_length < 1:
        raise UserError(f"data.context_length is {context_length}: it must be at least 1")
    num_held_out = int(len(content) * validation_fraction)
    if num_held_out < 2:
        raise UserError(
            f"data.text: {text} has {len(content)} characters, of which validation would get {num_held_out}: "
            "give a longer text or a greater data.validation_fraction"
        )
    alphabet = {character: code for code, character in enumerate(sorted(set(content)))}
    codes = torch.tensor([alphabet[character] for character in content])
    return Data(
        "language-model",
        _pieces(codes[:-num_held_out], context_length),
        _pieces(codes[-num_held_out:], context_length),
        num_outputs=len(alphabet),
        input_shape=(context_length,),
    )


def as_data(result: Any, source: str) -> Data:
    """What a user's callable returned, as :class:`Data`: a ``Data``, or a pair of training and validation set.

    The task follows the labels: whole numbers are classes, others are values to regress.

    Raises:
        UserError: It is neither, or a data set is empty, or its samples are not pairs of inputs and label.
    """
    if isinstance(result, Data):
        return _checked(result, source)
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise UserError(
            f"data {source!r} returned {type(result).__name__}: it must return gradledger.train.Data or a pair "
            "(training set, validation set)"
        )
    train, validation = result
    inputs, label = _first_sample(train, f"data {source!r}: the training set")
    _first_sample(validation, f"data {source!r}: the validation set")
    if label.is_floating_point():
        return Data("regression", train, validation, max(label.numel(), 1), input_shape=tuple(inputs.shape))
    highest = max(_highest_label(train), _highest_label(validation), 1)
    names = tuple(str(number) for number in range(highest + 1))
    return Data("classification", train, validation, highest + 1, names, tuple(inputs.shape))


def _checked(data: Data, source: str) -> Data:
    """A user's own ``Data``, with numbers for names where the classes have none."""
    if data.task not in TASKS:
        raise UserError(f"data {source!r}: the task is {data.task!r}: it must be one of {', '.join(TASKS)}")
    if data.num_outputs < 1 or (data.task == "classification" and data.num_outputs < 2):
        raise UserError(f"data {source!r}: num_outputs is {data.num_outputs}: it must be at least 1, or 2 classes")
    if data.task != "classification":
        return data
    names = data.class_names or tuple(str(number) for number in range(data.num_outputs))
    if len(names) != data.num_outputs:
        raise UserError(f"data {source!r}: {len(names)} class_names for {data.num_outputs} classes: give one a class")
    return replace(data, class_names=tuple(names))


def fingerprint(data: Data) -> dict[str, Any]:
    """What must be the same wherever the same data are made: lengths and shapes, and the sums of tensors."""
    marks: dict[str, Any] = {"task": data.task, "outputs": data.num_outputs, "input_shape": list(data.input_shape)}
    for name, dataset in (("training", data.train), ("validation", data.validation)):
        if not isinstance(dataset, IterableDataset):
            marks[f"{name} samples"] = length_of(dataset)
        if isinstance(dataset, TensorDataset):
            marks[f"{name} sums"] = [f"{tensor.double().sum().item():.6g}" for tensor in dataset.tensors]
    return marks


DATA: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "breast-cancer": breast_cancer,
    "diabetes": diabetes,
    "characters": characters,
}


def _split(labels: Any, validation_fraction: float, split_seed: int) -> tuple[Any, Any]:
    """Numbers of the samples held out and of those kept, drawn alike from each class."""
    from sklearn.model_selection import train_test_split

    _check_fraction(validation_fraction)
    try:
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=validation_fraction, random_state=split_seed, stratify=labels
        )
    except ValueError as error:
        raise UserError(f"data.validation_fraction is {validation_fraction}: {error}") from None
    return held_out, kept


def _check_fraction(validation_fraction: float) -> None:
    if not 0 < validation_fraction < 1:
        raise UserError(f"data.validation_fraction is {validation_fraction}: it must be between 0 and 1")


def _with_fewer_positives(kept: Any, labels: Any, fraction: float, generator: np.random.Generator) -> Any:
    positives, negatives = kept[labels[kept] == 1], kept[labels[kept] == 0]
    wanted = max(round(len(negatives) * fraction / (1 - fraction)), 1)
    return np.concatenate([negatives, generator.permutation(positives)[:wanted]])


def _with_more_negatives(held_out: Any, labels: Any, fraction: float, generator: np.random.Generator) -> Any:
    positives, negatives = held_out[labels[held_out] == 1], held_out[labels[held_out] == 0]
    wanted = max(round(len(positives) * (1 - fraction) / fraction), len(negatives))
    return np.concatenate([positives, negatives, generator.choice(negatives, wanted - len(negatives))])


def _tensors(inputs: Any, labels: Any) -> TensorDataset:
    label_type = torch.float32 if np.issubdtype(labels.dtype, np.floating) else torch.int64
    return TensorDataset(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels, dtype=label_type))


def _pieces(codes: Tensor, context_length: int) -> TensorDataset:
    num_pieces = -(-(len(codes) - 1) // context_length)
    padding = num_pieces * context_length - (len(codes) - 1)
    inputs = torch.nn.functional.pad(codes[:-1], (0, padding))
    labels = torch.nn.functional.pad(codes[1:], (0, padding), value=IGNORED_LABEL)
    return TensorDataset(inputs.view(num_pieces, context_length), labels.view(num_pieces, context_length))


def length_of(dataset: Any) -> int:
    """The samples of a data set.

    Raises:
        UserError: It has no length.
    """
    if not isinstance(dataset, Sized):
        raise UserError(f"{type(dataset).__name__} has no length: define __len__, or make it an IterableDataset")
    return len(dataset)


def _first_sample(dataset: Any, what: str) -> tuple[Tensor, Tensor]:
    if not isinstance(dataset, IterableDataset) and not (hasattr(dataset, "__getitem__") and length_of(dataset)):
        raise UserError(f"{what} is {type(dataset).__name__} with no samples: it must be a data set that has some")
    sample = next(iter(dataset), None) if isinstance(dataset, IterableDataset) else dataset[0]
    if not (isinstance(sample, tuple | list) and len(sample) == 2):
        raise UserError(f"{what} gives {type(sample).__name__}: each sample must be a pair (inputs, label)")
    if not isinstance(sample[0], Tensor | np.ndarray | np.generic):
        raise UserError(f"{what} gives inputs of type {type(sample[0]).__name__}: make them a tensor of numbers")
    return torch.as_tensor(sample[0]), torch.as_tensor(sample[1])


def _highest_label(dataset: Any) -> int:
    samples = iter(dataset) if isinstance(dataset, IterableDataset) else (dataset[i] for i in range(len(dataset)))
    return max(int(torch.as_tensor(label).max()) for _, label in samples)
