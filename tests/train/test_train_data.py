"""Data sets: nothing of the validation set is trained on, and orders are a function of seed and epoch."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from gradledger.errors import UserError
from gradledger.train.config import Choice, TrainConfig
from gradledger.train.data import Data, as_data, breast_cancer, characters, diabetes, digits
from gradledger.train.loading import MicroBatchSampler, make_loader, set_epoch
from gradledger.train.setup import load_data


@pytest.mark.parametrize(("make", "num_samples"), [(digits, 1797), (breast_cancer, 569), (diabetes, 442)])
def test_no_sample_is_on_both_sides_and_none_is_lost(make, num_samples):
    data = make(validation_fraction=0.25, split_seed=3)
    sides = [{tuple(row.flatten().tolist()) for row in side.tensors[0]} for side in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(data.train) + len(data.validation) == num_samples


def test_the_split_draws_alike_from_each_class():
    counts = torch.bincount(digits().validation.tensors[1])
    assert counts.min() >= 34
    assert counts.sum() == 360


def test_measurements_are_scaled_by_the_training_set_alone():
    inputs = breast_cancer().train.tensors[0]
    assert inputs.mean(dim=0).abs().max() < 1e-5
    held_out = breast_cancer().validation.tensors[0]
    assert held_out.mean(dim=0).abs().max() > 0.01


def test_positives_as_rare_as_asked():
    data = breast_cancer(positive_fraction=0.02)
    for side in (data.train, data.validation):
        assert side.tensors[1].double().mean().item() == pytest.approx(0.02, abs=0.003)
    assert data.validation.tensors[1].sum() == breast_cancer().validation.tensors[1].sum()


@pytest.mark.parametrize("fraction", [0, 1, -1, 2])
def test_fractions_out_of_range_are_told(fraction):
    with pytest.raises(UserError, match=f"data.validation_fraction is {fraction}: it must be between 0 and 1"):
        digits(validation_fraction=fraction)
    with pytest.raises(UserError, match=f"data.positive_fraction is {fraction}: it must be between 0 and 1"):
        breast_cancer(positive_fraction=fraction)


def test_a_text_is_cut_without_overlap_and_padded_with_labels_that_do_not_count(tmp_path):
    path = tmp_path / "text.txt"
    text = "the cat sat on the mat. " * 20
    path.write_text(text)
    data = characters(text=str(path), context_length=32, validation_fraction=0.25)
    alphabet = sorted(set(text))
    inputs, labels = data.train.tensors
    counted = labels != -100
    assert "".join(alphabet[code] for code in inputs[counted]) == text[:359]
    assert "".join(alphabet[code] for code in labels[counted]) == text[1:360]
    assert int((data.validation.tensors[1] != -100).sum()) == 119
    assert data.num_outputs == len(alphabet)


def test_a_text_that_cannot_be_used_is_told(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(UserError, match=r"data.text: .*text.txt cannot be read: No such file"):
        characters(text=str(path))
    path.write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        characters(text=str(path))
    path.write_text("short")
    with pytest.raises(UserError, match="has 5 characters, of which validation would get 0"):
        characters(text=str(path))
    path.write_text("long enough " * 10)
    with pytest.raises(UserError, match=r"data\.context_length is 0"):
        characters(text=str(path), context_length=0)


def test_every_micro_batch_size_cuts_the_same_order():
    orders = []
    for size in (1, 16, 64, 1000):
        sampler = MicroBatchSampler(1000, size, seed=3)
        sampler.epoch = 2
        micro_batches = list(sampler)
        assert len(micro_batches) == len(sampler)
        orders.append([sample for micro_batch in micro_batches for sample in micro_batch])
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(1000))
    assert orders[0] != next(iter(MicroBatchSampler(1000, 1000, seed=3)))


class _Listed(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index % 3


class _Streamed(IterableDataset):
    def __iter__(self):
        return ((torch.tensor([float(index)]), index / 2) for index in range(10))


@pytest.mark.parametrize("dataset", [_Listed(), _Streamed(), TensorDataset(torch.arange(10.0), torch.arange(10))])
def test_a_loader_leaves_the_global_random_state_alone(dataset):
    state = torch.get_rng_state()
    loader = make_loader(dataset, 4, seed=0)
    set_epoch(loader, 1)
    sizes = [len(labels) for _, labels in loader]
    assert sizes == [4, 4, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_epochs_have_their_own_order_in_every_kind_of_loader():
    for dataset in (_Listed(), TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))):
        loader = make_loader(dataset, 4, seed=0)
        orders = []
        for epoch in (1, 2, 1):
            set_epoch(loader, epoch)
            orders.append([inputs.item() for batch, _ in loader for inputs in batch])
        assert orders[0] == orders[2] != orders[1]


def test_the_task_follows_the_labels():
    classes = as_data((_Listed(), _Listed()), "mine:own")
    assert (classes.task, classes.num_outputs, classes.class_names) == ("classification", 3, ("0", "1", "2"))
    values = as_data([_Streamed(), _Streamed()], "mine:own")
    assert (values.task, values.num_outputs, values.input_shape) == ("regression", 1, (1,))


class _Triples(_Listed):
    def __getitem__(self, index):
        return 1, 2, 3


class _Lists(_Listed):
    def __getitem__(self, index):
        return [1.0, 2.0], 0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3, "returned int: it must return gradledger.train.Data or a pair"),
        ((_Listed(), []), "the validation set is list with no samples"),
        ((_Triples(), _Listed()), r"the training set gives tuple: each sample must be a pair \(inputs, label\)"),
        ((_Lists(), _Listed()), "the training set gives inputs of type list: make them a tensor"),
        ((object(), _Listed()), "the training set is object with no samples"),
    ],
)
def test_what_is_no_data_is_told(result, message):
    with pytest.raises(UserError, match=f"data 'mine:own'.*{message}"):
        as_data(result, "mine:own")


def test_a_users_own_data_gets_names_for_its_classes():
    given = Data("classification", _Listed(), _Listed(), 3)
    assert as_data(given, "mine:own").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ranking"}, "the task is 'ranking': it must be one of classification, regression, language-model"),
        ({"num_outputs": 1}, "num_outputs is 1: it must be at least 1, or 2 classes"),
        ({"class_names": ("a",)}, "1 class_names for 3 classes: give one a class"),
    ],
)
def test_a_users_own_data_must_fit_together(changes, message):
    given = replace(Data("classification", _Listed(), _Listed(), 3), **changes)
    with pytest.raises(UserError, match=message):
        as_data(given, "mine:own")


def test_a_configuration_chooses_the_data():
    data = load_data(TrainConfig(data=Choice(name="breast-cancer", positive_fraction=0.02)))
    assert data.class_names == ("benign", "malignant")
