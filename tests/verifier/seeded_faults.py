"""Seeded faults: each a model, a loss and a batch (or a loop), and the cause that must be named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

cross_entropy = nn.functional.cross_entropy
FAULTS: dict[str, Fault] = {}
STEP_FAULTS: dict[str, StepFault] = {}


@dataclass(frozen=True)
class Fault:
    make: Callable[[], tuple[nn.Module, Any, Any]]
    slug: str
    says: str
    where: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepFault:
    step_fn: Callable[..., None]
    slug: str
    says: str
    update: int = 1


def fault(slug: str, says: str, where: str | None = None, **options: Any) -> Any:
    def register(make: Any) -> Any:
        FAULTS[make.__name__] = Fault(make, slug, says, where, options)
        return make

    return register


def step_fault(slug: str, says: str, update: int = 1) -> Any:
    def register(step_fn: Any) -> Any:
        STEP_FAULTS[step_fn.__name__] = StepFault(step_fn, slug, says, update)
        return step_fn

    return register


def batch(num_samples: int = 11, width: int = 6, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, width, generator=generator)
    return inputs, torch.randint(3, (num_samples,), generator=generator)


def classifier(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3))


def mean_loss(model: nn.Module, micro_batch: Any) -> torch.Tensor:
    return cross_entropy(model(micro_batch[0]), micro_batch[1])


# Layers


@fault("coupled-layer", "in training mode it normalises by the statistics", where="1")
def batch_norm():
    return classifier(nn.BatchNorm1d(8)), mean_loss, batch()


@fault("coupled-layer", "'features.1' \\(BatchNorm2d\\)", where="features.1")
def batch_norm_in_a_convolutional_branch():
    torch.manual_seed(0)
    model = nn.Module()
    model.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten())
    model.head = nn.Linear(32, 3)
    inputs = torch.randn(11, 1, 6, 6)
    return model, lambda m, b: cross_entropy(m.head(m.features(b[0])), b[1]), (inputs, batch()[1])


class _Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.into(x)
        return self.out(hidden - hidden.mean(0))


@fault("coupled-layer", "code in the forward of the model's own forward \\(_Centred\\), before 'out'", where="_Centred")
def centred_by_the_batch_in_forward():
    torch.manual_seed(0)
    return _Centred(), mean_loss, batch()


class _StandardDeviation(nn.Module):
    def forward(self, x):
        return torch.cat([x, x.std(0, keepdim=True).mean().expand(len(x), 1)], 1)


@fault("coupled-layer", "'1' \\(_StandardDeviation\\)", where="1")
def minibatch_standard_deviation():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), _StandardDeviation(), nn.Linear(9, 3)), mean_loss, batch()


# Losses


@fault("coupled-loss", "a sample's gradient changes when another sample's activations do")
def info_nce():
    def loss_fn(model, pair):
        left, right = (nn.functional.normalize(model(side), dim=-1) for side in pair)
        return cross_entropy(left @ right.T / 0.1, torch.arange(len(left)))

    return classifier(), loss_fn, (batch()[0], batch(seed=4)[0])


@fault("coupled-loss", "use accumulator.update_coupled|couples samples")
def triplets_in_the_batch():
    def loss_fn(model, micro_batch):
        z, labels = model(micro_batch[0]), micro_batch[1]
        distances = (z[:, None] - z[None]).square().sum(-1)
        same = labels[:, None] == labels[None]
        return (distances.where(same, 0.0).sum(1) - distances.where(~same, 0.0).mean(1)).mean()

    return classifier(), loss_fn, batch()


@fault("coupled-loss", "couples samples")
def load_balance_of_experts():
    def loss_fn(model, micro_batch):
        probabilities = model(micro_batch[0]).softmax(-1)
        return cross_entropy(model(micro_batch[0]), micro_batch[1]) + 3 * probabilities.mean(0).square().sum()

    return classifier(), loss_fn, batch()


class _SortedExperts(nn.Module):
    """Sorts samples by expert before the experts' own modules see them, which is no coupling."""

    def __init__(self):
        super().__init__()
        self.router, self.expert, self.out = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 3)

    def forward(self, x):
        scores = self.router(x)
        order = scores.argmax(-1).argsort(stable=True)
        mixed = torch.empty_like(scores).index_copy(0, order, self.expert(x[order]))
        return self.out(mixed * scores.softmax(-1).amax(-1, keepdim=True)), scores


@fault("coupled-loss", "couples samples")
def load_balance_of_sorted_experts():
    def loss_fn(model, micro_batch):
        output, scores = model(micro_batch[0])
        return cross_entropy(output, micro_batch[1]) + scores.softmax(-1).mean(0).square().sum()

    torch.manual_seed(0)
    return _SortedExperts(), loss_fn, batch()


@fault("wrong-scale", "the micro-batches come to 0.250 x the whole batch", micro_batch_size=2)
def sum_taken_for_a_mean():
    return classifier(), lambda m, b: cross_entropy(m(b[0]), b[1], reduction="sum"), batch(8)


@fault("wrong-scale", "is divided by a constant", micro_batch_size=4)
def divided_by_the_configured_batch_size():
    return classifier(), lambda m, b: cross_entropy(m(b[0]), b[1], reduction="sum") / 8, batch(11)


@fault("wrong-scale", "is a mean over samples, but was taken for a sum", reduction="sum")
def mean_taken_for_a_sum():
    return classifier(), mean_loss, batch()


@fault(
    "wrong-denominator", "elements of batch\\[1\\] that are not -100 \\(3, 2, 3 .* weighted by samples \\(4, 4, 3\\)"
)
def ignored_labels_weighted_by_samples():
    inputs, labels = batch()
    labels[[1, 4, 5]] = -100
    return classifier(), mean_loss, (inputs, labels)


@fault("wrong-denominator", "elements of batch\\['labels'\\]\\[:, 1:\\] that are not -100")
def next_tokens_weighted_by_samples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 12))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(12, (7, 9), generator=generator)
    labels = ids.masked_fill(torch.arange(9) >= torch.tensor([9, 3, 5, 7, 2, 8, 4])[:, None], -100)

    def loss_fn(model, micro_batch):
        logits = model(micro_batch["ids"])[:, :-1]
        return cross_entropy(logits.flatten(0, 1), micro_batch["labels"][:, 1:].flatten())

    return model, loss_fn, {"ids": ids, "labels": labels}


@fault("wrong-denominator", "the sum of batch\\['weights'\\]")
def sample_weights_weighted_by_samples():
    inputs, labels = batch()
    weights = torch.linspace(0.5, 3.0, 11)

    def loss_fn(model, b):
        losses = cross_entropy(model(b["x"]), b["y"], reduction="none")
        return (losses * b["weights"]).sum() / b["weights"].sum()

    return classifier(), loss_fn, {"x": inputs, "y": labels, "weights": weights}


@fault("wrong-denominator", "a mean over something else than samples: micro-batches take part with")
def class_weights_weighted_by_samples():
    weights = torch.tensor([1.0, 5.0, 0.2])
    return classifier(), lambda m, b: cross_entropy(m(b[0]), b[1], weight=weights), batch()


@fault("wrong-denominator", "a mean over samples \\(4, 4, 3 .* weighted by the given weight= \\(1, 1, 1", weight=1)
def weighted_as_if_equal():
    return classifier(), mean_loss, batch()


@fault("several-denominators", "means over unlike units")
def tokens_and_samples_added():
    inputs, labels = batch()
    labels[[1, 4, 5]] = -100

    def loss_fn(model, b):
        output = model(b[0])
        return cross_entropy(output, b[1]) + output.square().sum(1).mean()

    return classifier(), loss_fn, (inputs, labels)


# Backward passes


class _FusedLoss(torch.autograd.Function):
    """Computes its gradient in the forward and forgets to scale it by the one from above."""

    @staticmethod
    def forward(ctx, logits, labels):
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = cross_entropy(leaf, labels)
            (gradient,) = torch.autograd.grad(loss, leaf)
        ctx.save_for_backward(gradient)
        return loss.detach()

    @staticmethod
    def backward(ctx, grad_output):
        return ctx.saved_tensors[0], None


@fault("ignored-upstream-gradient", "the backward of _FusedLossBackward ignores", where="_FusedLossBackward")
def fused_loss_ignores_its_upstream_gradient():
    return classifier(), lambda m, b: _FusedLoss.apply(m(b[0]), b[1]), batch()


class _NormedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output / grad_output.norm()


class _Normed(nn.Module):
    def forward(self, x):
        return _NormedGradient.apply(x)


@fault("ignored-upstream-gradient", "the gradients of 0.weight, 0.bias do not double", where="_NormedGradientBackward")
def layer_ignores_its_upstream_gradient():
    return classifier(_Normed()), mean_loss, batch()


# State and random numbers


class _Queue(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 3)
        self.register_buffer("queue", torch.ones(5, 3))

    def forward(self, x):
        z = self.encoder(x)
        logits = z @ self.queue.clone().T
        with torch.no_grad():
            self.queue.copy_(torch.cat([self.queue, z])[-5:])
        return logits


@fault("keeps-state", "its buffers queue move with every forward", where="queue")
def memory_queue():
    torch.manual_seed(0)
    return _Queue(), lambda m, b: m(b[0]).square().mean(), batch()


@fault("random", "random numbers from outside torch")
def masks_from_pythons_generator():
    return classifier(), lambda m, b: mean_loss(m, b) * (1 + random.random()), batch()


@fault("random", "random numbers that are not drawn per sample")
def permuted_samples():
    def loss_fn(model, b):
        order = torch.randperm(len(b[0]))
        return (model(b[0]) - model(b[0][order])).square().mean()

    return classifier(), loss_fn, batch()


# Precision


@fault("low-precision-accumulation", "accumulate in float32|additions round it away", micro_batch_size=1)
def bfloat16_over_many_micro_batches():
    torch.manual_seed(0)
    model = nn.Linear(4, 1).bfloat16()
    inputs = (1 + 0.01 * torch.randn(1000, 4)).bfloat16()
    return model, lambda m, x: m(x).mean(), inputs


# Loops


@step_fault("wrong-scale", "the gradient is 8.000 x the expected one: not divided by the number of micro-batches")
def never_divided(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        mean_loss(model, b).backward()
    optimizer.step()


@step_fault("wrong-scale", "the gradient is 0.125 x the expected one: divided by the number of micro-batches twice")
def divided_twice(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        (mean_loss(model, b) / len(micro_batches) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("wrong-scale", "the gradient is 0.500 x the expected one: a constant factor")
def short_window_divided_by_the_full_number(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        (mean_loss(model, b) / 16).backward()
    optimizer.step()


@step_fault("wrong-scale", "1024.000 x the expected one: the gradient scaler's factor was not taken out")
def stepped_without_unscaling(model, optimizer, micro_batches):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer.zero_grad()
    for b in micro_batches:
        scaler.scale(mean_loss(model, b) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("discarded-gradient", "only the last of 8 micro-batches counts")
def zeroed_for_every_micro_batch(model, optimizer, micro_batches):
    for b in micro_batches:
        optimizer.zero_grad()
        (mean_loss(model, b) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("discarded-gradient", "the first 2 of 8 micro-batches do not count")
def zeroed_once_inside_the_window(model, optimizer, micro_batches):
    for at, b in enumerate(micro_batches):
        if at in (0, 2):
            optimizer.zero_grad()
        (mean_loss(model, b) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("stale-gradient", "the gradient holds 1.000 x the gradient that the update before", update=2)
def never_zeroed(model, optimizer, micro_batches):
    for b in micro_batches:
        (mean_loss(model, b) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("num-steps", "optimizer.step\\(\\) was called once per micro-batch in a window of 8")
def stepped_for_every_micro_batch(model, optimizer, micro_batches):
    for b in micro_batches:
        optimizer.zero_grad()
        mean_loss(model, b).backward()
        optimizer.step()


@step_fault("num-steps", "optimizer.step\\(\\) was not called in the window")
def tail_that_is_never_stepped(model, optimizer, micro_batches):
    for at, b in enumerate(micro_batches):
        mean_loss(model, b).backward()
        if (at + 1) % 16 == 0:
            optimizer.step()


@step_fault("missing-micro-batch", "micro-batch 4 of 8 does not count")
def one_micro_batch_left_out(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for at, b in enumerate(micro_batches):
        if at != 3:
            (mean_loss(model, b) / len(micro_batches)).backward()
    optimizer.step()


@step_fault("clip", "earlier micro-batches count less than later ones")
def clipped_for_every_micro_batch(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        (mean_loss(model, b) / len(micro_batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.02)
    optimizer.step()


@step_fault("clip", "the norm 0.05, of .* the loop clips it")
def clipped_without_saying(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        (mean_loss(model, b) / len(micro_batches)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()


@step_fault("optimizer", "the parameters change otherwise")
def weights_decayed_by_hand(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for b in micro_batches:
        (mean_loss(model, b) / len(micro_batches)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0)
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.99)
