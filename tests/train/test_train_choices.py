"""Names in a configuration: what they stand for, and what a mistaken one is told."""

import textwrap

import pytest
import torch
from torch import nn

from gradledger.engine.memory.measuring import Bench
from gradledger.errors import UserError
from gradledger.train import load_config, prepare
from gradledger.train.arms import choose_arms
from gradledger.train.choices import MODELS, CrossEntropy, optimizer_registry, scheduler_registry
from gradledger.train.data import Data, digits

_SETS = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.randint(3, (40,)))
SMALL = Data("classification", _SETS, _SETS, 3, ("a", "b", "c"), (4,))


def _prepare(*overrides, data=SMALL):
    return prepare(load_config(overrides=["device=cpu", *overrides]), data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=digit", "unknown data 'digit': did you mean 'digits'\\? The built-ins are digits, breast-cancer"),
        ("model=mpl", "unknown model 'mpl': did you mean 'mlp'"),
        ("loss=cross_entropy", "unknown loss 'cross_entropy': did you mean 'cross-entropy'"),
        ("optimizer=Adam-W", "unknown optimizer 'Adam-W': did you mean 'adamw'"),
        ("scheduler=cos", "unknown scheduler 'cos': did you mean 'cosine'"),
        (
            "optimizer.lrr=3",
            r"unknown key 'optimizer.lrr' \(value 3\): did you mean 'lr'\? The optimizer 'sgd' takes lr",
        ),
        ("optimizer.lr=fast", "optimizer.lr is 'fast': optimizer 'sgd' takes a number, such as 0.001"),
        ("optimizer.lr=true", "optimizer.lr is True: optimizer 'sgd' takes a number"),
        ("optimizer.lr=-1", "optimizer 'sgd': Invalid learning rate: -1"),
        ("optimizer.nesterov=1", "optimizer.nesterov is 1: optimizer 'sgd' takes true or false"),
        ("model.hidden=64", r"model.hidden is 64: model 'mlp' takes a list, such as \[64\]"),
        ("model.hidden=[a]", r"model.hidden is \['a'\]: it must be a list of widths"),
        ("model=cnn", r"model 'cnn' takes images, these inputs have the shape \[4\]: choose mlp"),
        ("model=transformer", "model 'transformer' is for language-model, but the data are for classification: choose"),
        ("loss=json:loads", r"loss 'json:loads' cannot be called as loss\(outputs, labels\): too many positional"),
        ("loss=mse", "loss 'mse' is for regression, but the data are for classification: choose cross-entropy"),
        ("loss.class_weights=[1,2]", "loss.class_weights has 2 numbers for 3 classes: give one a class"),
        ("scheduler.x=1", r"unknown key 'scheduler.x' \(value 1\): scheduler 'none' takes no arguments"),
        ("data=characters", "data 'characters' needs 'text': give data.text"),
        ("device=cuda:99", "device is 'cuda:99', which this machine does not have: choose one of auto"),
        ("model=nowhere:model", "model 'nowhere:model': no module 'nowhere'"),
        ("model=torch.nn:Linnear", "torch.nn has no 'Linnear': did you mean 'Linear'"),
        ("model=torch:float32", "model 'torch:float32' is dtype torch.float32: it must be callable"),
        ("model=:x", "model ':x': no module ''"),
        ("model=builtins:dict", "model 'builtins:dict' gave dict: it must give a torch.nn.Module"),
        ("scheduler=builtins:id", "scheduler 'builtins:id' gave int: it must give a torch scheduler"),
    ],
)
def test_a_mistake_is_told_with_the_nearest_valid_name(override, message):
    with pytest.raises(UserError, match=message):
        _prepare(override)


def test_an_automatic_micro_batch_size_is_measured_and_written_down(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Bench, "_measured_seconds", lambda _, batch: 1.0 if len(batch[0]) <= 8 else 10.0)
    open_size = ("micro_batch_size=auto", "effective_batch_size=24")
    setup = _prepare(*open_size, "checkpointing=true")
    assert (setup.config.micro_batch_size, setup.config.steps, len(next(iter(setup.loader))[1])) == (8, 3, 8)
    remembered = list(tmp_path.rglob("*.json"))
    assert len(remembered) == 1
    prepare(load_config(overrides=["device=cpu", *open_size]), SMALL, cache=False)
    assert list(tmp_path.rglob("*.json")) == remembered
    plain = _prepare("micro_batch_size=8", "effective_batch_size=24")
    for one, other in zip(setup.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)  # measuring leaves no trace
    with pytest.raises(UserError, match="micro_batch_size is auto, but a comparison is between given sizes"):
        choose_arms(None, load_config(overrides=list(open_size)))


def test_a_size_is_not_measured_on_a_stream():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(_SETS)

    stream = Data("classification", Stream(), _SETS, 3, ("a", "b", "c"), (4,))
    with pytest.raises(UserError, match="micro_batch_size is auto, but the training set has no length"):
        _prepare("micro_batch_size=auto", "effective_batch_size=24", data=stream)


def test_a_window_longer_than_an_epoch_trains_nothing_when_tails_are_dropped():
    with pytest.raises(UserError, match="an epoch has 3 micro-batches, fewer than the 4 of a window"):
        _prepare("tail=drop")


def test_the_written_configuration_leaves_nothing_open():
    config = _prepare("optimizer.lr=0.5", data=digits()).config
    assert config.model.model_dump() == {"name": "mlp", "hidden": [64], "dropout": 0.0}
    assert config.loss.name == "cross-entropy"
    assert config.optimizer.arguments["lr"] == 0.5
    assert config.optimizer.arguments["momentum"] == 0.9
    assert "auto" not in str(config.model_dump(exclude={"device", "sync"}))


@pytest.mark.parametrize("name", sorted(optimizer_registry.built_ins))
def test_every_optimizer_can_be_named(name):
    made = _prepare(f"optimizer={name}") if name not in ("muon", "sparseadam") else None
    assert made is None or made.optimizer.__class__.__name__.lower() == name


@pytest.mark.parametrize("name", sorted(set(scheduler_registry.built_ins) - {"none"}))
def test_every_scheduler_can_be_named_and_ends_where_the_updates_end(name):
    setup = _prepare(f"scheduler={name}", "epochs=7")
    assert setup.num_planned_updates == 7
    if name in ("cosine", "linear", "warm-up-cosine"):
        setup.optimizer.step()
        for _ in range(setup.num_planned_updates):
            setup.scheduler.step()
        assert setup.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_built_in_models_fit_their_inputs():
    shapes = {"linear": (8, 8), "mlp": (8, 8), "cnn": (8, 8), "transformer": (12,)}
    assert shapes.keys() == MODELS.keys()
    for name, shape in shapes.items():
        model = MODELS[name](input_shape=shape, num_outputs=5)
        inputs = torch.randint(5, (2, *shape)) if name == "transformer" else torch.randn(2, *shape)
        assert model(inputs).shape == ((2, 12, 5) if name == "transformer" else (2, 5))


def test_the_transformer_does_not_look_ahead():
    model = MODELS["transformer"](input_shape=(12,), num_outputs=5).eval()
    codes = torch.randint(5, (1, 12))
    changed = codes.clone()
    changed[0, 7] = (codes[0, 7] + 1) % 5
    before, after = model(codes), model(changed)
    assert torch.allclose(before[0, :7], after[0, :7], atol=1e-6)
    assert not torch.allclose(before[0, 7:], after[0, 7:], atol=1e-3)


def test_class_weights_are_what_the_mean_is_over():
    labels = torch.tensor([0, 1, 1, 2, -100])
    setup = _prepare("loss.class_weights=[1,4,0.5]")
    assert setup.weight((None, labels)) == 9.5
    logits = torch.randn(5, 3)
    expected = nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1, 4, 0.5]))
    assert setup.loss(logits, labels).item() == pytest.approx(expected.item())
    assert _prepare().weight is None


def test_the_mean_of_a_text_is_over_its_tokens():
    labels = torch.tensor([[1, 2, -100], [0, -100, -100]])
    logits = torch.randn(2, 3, 4)
    loss = CrossEntropy()
    assert loss.weight("language-model")((None, labels)) == 3
    expected = nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    source = """
        import torch
        def sets():
            x = torch.randn(30, 5)
            return torch.utils.data.TensorDataset(x, x.sum(1)), torch.utils.data.TensorDataset(x[:9] + 1, x[:9].sum(1))
        def net(input_shape, num_outputs, width=3):
            return torch.nn.Sequential(torch.nn.Linear(input_shape[0], width), torch.nn.Linear(width, num_outputs))
        def loss(outputs, labels, *, power=2.0):
            return (outputs.flatten() - labels).abs().pow(power).mean()
        def optimizer(parameters, lr=0.1):
            return torch.optim.SGD(parameters, lr=lr)
        def scheduler(optimizer, num_updates):
            return torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=num_updates)
    """
    (tmp_path / "own_module_of_train_test.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    return "own_module_of_train_test"


def test_everything_can_be_the_users_own(own_module):
    overrides = [f"{key}={own_module}:{name}" for key, name in
                 [("data", "sets"), ("model", "net"), ("loss", "loss"), ("optimizer", "optimizer"),
                  ("scheduler", "scheduler")]]  # fmt: skip
    setup = _prepare(*overrides, "model.width=4", "loss.power=1.5", "optimizer.lr=0.25", data=None)
    assert setup.config.model.arguments == {"width": 4}
    assert setup.data.task == "regression"
    assert setup.optimizer.param_groups[0]["lr"] == pytest.approx(0.25 / 3)
    assert setup.loss(torch.ones(4, 1), torch.zeros(4)).item() == 1.0
    assert setup.scheduler.total_iters == setup.num_planned_updates


def test_an_error_inside_the_users_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_train_test.py").write_text("import nothing_that_exists\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_that_exists"):
        _prepare("model=broken_module_of_train_test:net")
