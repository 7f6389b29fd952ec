"""What each rank runs: windows of its own data, compared with plain training on the whole batches of all ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gradledger
from engine.oracle import relative_distance, train_on_whole_batches
from gradledger.ledger import Ledger

IGNORED = -100


class Tagger(nn.Module):
    """Labels each token; what is averaged over are the labels that are not ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(torch.tanh(self.embed(tokens)))))


def make_micro_batch(generator: torch.Generator, num_samples: int, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(num_samples, 3, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (num_samples, 3), generator=generator)
    return inputs, labels.masked_fill(torch.rand(num_samples, 3, generator=generator) < ignored, IGNORED)


def token_mean(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def divided_sum(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The same mean, but NaN in value and gradient where no label counts."""
    counts = (labels != IGNORED).flatten()
    losses = F.cross_entropy(model(inputs).flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none")
    return (losses * counts).sum() / counts.sum()


def sample_mean(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return (model(inputs).square().sum((1, 2)) + inputs.sum((1, 2)) * model(inputs)[:, 0, 0]).mean()


def loaders(num_ranks: int, *, lengths: tuple[int, ...] = (7, 5, 2, 4), ignored: float = 0.3) -> list[list[Any]]:
    """Micro-batches of each rank: unlike numbers of them, of unlike numbers of samples and tokens."""
    generator = torch.Generator().manual_seed(5)
    sizes = (4, 1, 3, 2, 5, 2, 6)
    return [
        [make_micro_batch(generator, sizes[(at + 2 * rank) % 7], ignored) for at in range(lengths[rank])]
        for rank in range(num_ranks)
    ]


def windows_of(loader: list[Any], steps: int) -> list[list[Any]]:
    return [loader[at : at + steps] for at in range(0, len(loader), steps)]


def global_windows(of_ranks: list[list[Any]], steps: int) -> list[list[Any]]:
    """The micro-batches of all ranks that make each update, while any rank has some."""
    grouped = [windows_of(loader, steps) for loader in of_ranks]
    return [
        [each for windows in grouped if at < len(windows) for each in windows[at]]
        for at in range(max(map(len, grouped)))
    ]


def replicate(model: nn.Module, **options: Any) -> nn.Module:
    return DistributedDataParallel(model, **options)


def shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shard_whole(model: nn.Module) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def shard_with_replicas(model: nn.Module) -> nn.Module:
    """Two ranks share each copy of the model where they are four; else each has one."""
    num_ranks = dist.get_world_size()
    shape = (2, 2) if num_ranks == 4 else (num_ranks, 1)
    return fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")))


def full(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def make(
    wrap: Callable[[nn.Module], nn.Module], model: Callable[[], nn.Module] = Tagger
) -> tuple[nn.Module, nn.Module]:
    """A wrapped model and its plain twin."""
    torch.manual_seed(3)
    plain = model().double()
    return wrap(copy.deepcopy(plain)), plain


def whole(model: nn.Module) -> nn.Module:
    """The model with all of its parameters in full, for comparison."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            return module.module
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return nn.ParameterList([full(parameter.detach()) for parameter in model.parameters()])
    return model


@dataclass
class Seen:
    """What a run came to, beside its oracle."""

    distance: float
    losses: list[float]
    norms: list[float]
    weights: list[float]
    oracle: list[tuple[float, float]]
    num_reductions: list[int]
    num_between_copies: list[int]
    ledger: str
    entries: Ledger
    parameters: Tensor


def check_exact(seen: list[Any]) -> None:
    """On every rank the same bits, which are those of the oracle but for rounding."""
    assert all(not isinstance(each, str) for each in seen), seen
    for each in seen:
        assert each.distance < 1e-12
        assert [loss for loss, _ in each.oracle] == pytest.approx(each.losses, rel=1e-12)
        assert [norm for _, norm in each.oracle] == pytest.approx(each.norms, rel=1e-12)
        assert torch.equal(each.parameters, seen[0].parameters)
        assert (each.losses, each.norms, each.weights) == (seen[0].losses, seen[0].norms, seen[0].weights)


class Exact:
    """Several epochs of windows on each rank against whole batches."""

    def __init__(self, wrap: Callable[..., nn.Module] = replicate, *, steps: int = 3, epochs: int = 2, **options: Any):
        self.wrap = wrap
        self.steps = steps
        self.epochs = epochs
        self.options = options

    def __call__(self, rank: int, num_ranks: int) -> Seen:
        options = dict(self.options)
        loss_fn = options.pop("loss_fn", token_mean)
        step = options.pop("step", None)
        is_late = options.pop("late", False)
        of_ranks = loaders(num_ranks, ignored=options.pop("ignored", 0.3))
        if options.pop("empty", False):
            inputs, labels = of_ranks[1][4]  # the last of the rank's window, and repeated afterwards
            of_ranks[1][4] = inputs, torch.full_like(labels, IGNORED)
        model, plain = make(self.wrap, options.pop("model", Tagger))
        counts = count_reductions(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        weight = None if loss_fn is sample_mean else gradledger.tokens(IGNORED)
        accumulator = gradledger.Accumulator(model, optimizer, weight=None if is_late else weight, **options)
        seen, num_reductions = [], []
        for _ in range(self.epochs):
            for window in accumulator.windows(of_ranks[rank], steps=self.steps):
                with window:
                    for inputs, labels in window:
                        if step is not None:
                            step(window, model, inputs, labels)
                            continue
                        late = {"weight": (labels != IGNORED).sum().item()} if is_late else {}
                        window.backward(loss_fn(model, inputs, labels), **late)
                seen.append((window.loss, window.grad_norm, window.weight))
                num_reductions.append(counts.pop())
        clip = {key: value for key, value in options.items() if key.startswith("clip")}
        oracle_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
        windows = global_windows(of_ranks, self.steps) * self.epochs
        oracle = train_on_whole_batches(plain, oracle_optimizer, windows, loss_fn, **clip)
        result = whole(model)
        losses, norms, weights = map(list, zip(*seen, strict=True))
        parameters = torch.cat([p.detach().reshape(-1) for p in result.parameters()])
        books = Ledger(list(accumulator.ledger))
        distance = relative_distance(result, plain)
        counted = tuple(map(list, zip(*num_reductions, strict=True)))
        return Seen(distance, losses, norms, weights, oracle, *counted, books.text(), books, parameters)


def split_terms(window: gradledger.Window, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """The same loss as two terms through one forward, each of half the weight."""
    loss = token_mean(model, inputs, labels)
    window.backward(loss / 4, retain_graph=True)
    window.backward(loss * 3 / 4)


def two_forwards(window: gradledger.Window, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    window.backward(token_mean(model, inputs, labels) / 4)
    window.backward(token_mean(model, inputs, labels) * 3 / 4)


def skip_empty(window: gradledger.Window, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """No backward where no label counts, so that the wrapper's reduction finds none on some rank."""
    loss = token_mean(model, inputs, labels)
    if (labels != IGNORED).any():
        window.backward(loss)


class Counter:
    """Counts gradient reductions; the all-reduce between the copies of a sharded model comes on top of its own."""

    def __init__(self) -> None:
        self.num_reductions = 0
        self.num_between_copies = 0

    def pop(self) -> tuple[int, int]:
        numbers = self.num_reductions, self.num_between_copies
        self.num_reductions = self.num_between_copies = 0
        return numbers


def count_reductions(model: nn.Module) -> Counter:
    counter = Counter()

    def hook(state, bucket):
        state.num_reductions += 1
        total = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
        return total.then(lambda future: future.value()[0])

    hook.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.register_comm_hook(counter, hook)
    if not isinstance(model, DistributedDataParallel):
        count_reduce_scatters(counter)
    return counter


def count_reduce_scatters(counter: Counter) -> None:
    """What FSDP2 calls to reduce, counted for as long as the rank lives."""
    name = (
        "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
    )  # torch < 2.13
    reduce_scatter = getattr(dist, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        counter.num_reductions += 1
        return reduce_scatter(*arguments, **options)

    setattr(dist, name, counting)
    all_reduce = dist.all_reduce

    def counting_copies(*arguments: Any, **options: Any) -> Any:
        counter.num_between_copies += 1
        return all_reduce(*arguments, **options)

    dist.all_reduce = counting_copies
