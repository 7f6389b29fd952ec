"""The zoo: small models of many kinds, each with a loss and what that loss is a mean over.

An entry makes its model and a batch of any number of samples; its ``loss_fn(model, batch)`` gives the mean loss of a
batch, or a mapping of losses by unit. Everything is made in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradledger

Batch = tuple[Tensor, ...]
ZOO: dict[str, Entry] = {}


@dataclass(frozen=True)
class Entry:
    """One model with its loss.

    Args:
        make: Makes the model.
        draw: ``draw(generator, num_samples)`` draws a batch.
        loss_fn: ``loss_fn(model, batch)``.
        settings: What the accumulator is told: weight, reduction.
        is_random: The forward draws random numbers.
        has_idle_parameter: Some gradient is zero but for rounding (a bias that a later subtraction takes away), which
            Adam divides by its own size: its steps are then rounding errors as large as any other step.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[torch.Generator, int], Batch]
    loss_fn: Callable[[nn.Module, Any], Any]
    settings: dict[str, Any] = field(default_factory=dict)
    is_random: bool = False
    has_idle_parameter: bool = False


def add(
    name: str,
    make: Any,
    draw: Any,
    loss_fn: Any,
    *,
    is_random: bool = False,
    has_idle_parameter: bool = False,
    **settings: Any,
) -> None:
    ZOO[name] = Entry(make, draw, loss_fn, settings, is_random, has_idle_parameter)


# What batches are made of


def normal(*shape: int) -> Any:
    return lambda g, n: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def uniform(*shape: int) -> Any:
    return lambda g, n: torch.rand(n, *shape, generator=g, dtype=torch.float64)


def classes(count: int, *shape: int) -> Any:
    return lambda g, n: torch.randint(count, (n, *shape), generator=g)


def ragged(count: int, length: int) -> Any:
    """Labels of sequences of unlike lengths, the rest ignored; every sequence has two at least."""

    def draw(g: torch.Generator, n: int) -> Tensor:
        lengths = torch.randint(2, length + 1, (n, 1), generator=g)
        return torch.randint(count, (n, length), generator=g).masked_fill(torch.arange(length) >= lengths, -100)

    return draw


def batch_of(*parts: Any) -> Any:
    return lambda g, n: tuple(part(g, n) for part in parts)


# Models


def mlp(*middle: Any, inputs: int = 6, outputs: int = 3) -> Any:
    def make() -> nn.Module:
        layers = [layer() for layer in middle]
        return nn.Sequential(nn.Linear(inputs, 8), *layers, nn.Tanh(), nn.Linear(8, outputs))

    return make


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.recurrent, self.head = kind(5, 6, num_layers=2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self, *, dropout: float = 0.0, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=batch_first)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = self.layer(x) if self.batch_first else self.layer(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x)


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mixer = nn.Embedding(11, 8), nn.GRU(8, 8, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mixer(self.embedding(ids))[0] @ self.embedding.weight.T


class Residual(nn.Module):
    def __init__(self, *, is_checkpointed: bool = False) -> None:
        super().__init__()
        self.into, self.out, self.is_checkpointed = nn.Linear(6, 8), nn.Linear(8, 3), is_checkpointed
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.is_checkpointed else block(x))
        return self.out(x)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        return sum(gates[:, at, None] * expert(x) for at, expert in enumerate(self.experts))


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance


class DropPath(nn.Module):
    """Drops whole samples of a residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full((len(x), 1), 0.7, dtype=x.dtype, device=x.device)) / 0.7


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.classes, self.values = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x).tanh()
        return self.classes(hidden), self.values(hidden)[:, 0]


class MeanLossInside(nn.Module):
    """Returns its own mean loss beside its logits, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Transformer()

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(ids)
        return {"loss": next_token(logits, labels), "logits": logits}


def convolutional(*norm: Any) -> Any:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), *(layer() for layer in norm), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def frozen_norm() -> nn.Module:
    model = convolutional(lambda: nn.BatchNorm2d(4))()
    model[1].running_mean.uniform_()
    return model.eval()


def frozen_backbone() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    return model


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.SiLU(), nn.ConvTranspose1d(3, 2, 3, padding=1))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


# Losses


def on_output(loss: Callable[..., Tensor], **options: Any) -> Any:
    return lambda model, batch: loss(model(batch[0]), *batch[1:], **options)


def per_token(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    return per_token(logits[:, :-1], labels[:, 1:])


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


def evidence_bound(model: nn.Module, batch: Batch) -> Tensor:
    decoded, mean, log_variance = model(batch[0])
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
    return ((decoded - batch[0]).square().sum(-1) + divergence).mean()


def sample_weighted(model: nn.Module, batch: Batch) -> Tensor:
    losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses * batch[2]).sum() / batch[2].sum()


def connectionist(model: nn.Module, batch: Batch) -> Tensor:
    logits, targets, lengths = model(batch[0]), batch[1], batch[2]
    steps = torch.full((len(targets),), logits.size(1))
    return functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, steps, lengths)


def two_terms(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    logits = model(batch[0])
    return {"tokens": per_token(logits, batch[1]), "samples": 0.3 * logits.square().mean(dim=(1, 2)).mean()}


def classes_and_values(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    logits, values = model(batch[0])
    labelled = batch[1] != -100
    penalty = sum(p.square().sum() for p in model.parameters())
    return {
        "labels": functional.cross_entropy(logits[labelled], batch[1][labelled]),
        "samples": functional.mse_loss(values, batch[2]),
        "window": 0.01 * penalty,
    }


CLASS_WEIGHTS = torch.tensor([0.5, 3.0, 1.25], dtype=torch.float64)
POSITIVE_WEIGHTS = torch.tensor([2.0, 0.5, 4.0], dtype=torch.float64)
labelled_batch = batch_of(normal(6), classes(3))
images = batch_of(normal(2, 6, 6), classes(3))
sequences = batch_of(classes(11, 7), ragged(11, 7))
cross_entropy = on_output(functional.cross_entropy)


def one_sided(g: torch.Generator, n: int) -> Tensor:
    return torch.randint(2, (n,), generator=g).double() * 2 - 1


def some_labelled(g: torch.Generator, n: int) -> Tensor:
    labels = classes(3)(g, n)
    labels[torch.rand(n, generator=g) < 0.3] = -100
    labels[0] = 1
    return labels


# Regression
add("linear regression", lambda: nn.Linear(6, 3), batch_of(normal(6), normal(3)), on_output(functional.mse_loss))
add("perceptron, L1", mlp(), batch_of(normal(6), normal(3)), on_output(functional.l1_loss))
add("perceptron, Huber", mlp(), batch_of(normal(6), normal(3)), on_output(functional.huber_loss))
add("perceptron, Poisson", mlp(), batch_of(normal(6), classes(4, 3)), on_output(functional.poisson_nll_loss))
add(
    "perceptron, Gaussian likelihood",
    mlp(),
    batch_of(normal(6), normal(3)),
    lambda m, b: functional.gaussian_nll_loss(m(b[0]), b[1], m(b[0]).exp()),
)
add("autoencoder", autoencoder, batch_of(normal(2, 9)), lambda m, b: functional.mse_loss(m(b[0]), b[0]))
# Classification
add("perceptron, cross entropy", mlp(), labelled_batch, cross_entropy)
add("perceptron, sum", mlp(), labelled_batch, on_output(functional.cross_entropy, reduction="sum"), reduction="sum")
add("perceptron, smoothing", mlp(), labelled_batch, on_output(functional.cross_entropy, label_smoothing=0.1))
add("perceptron, focal", mlp(), labelled_batch, on_output(focal))
add("perceptron, margin", mlp(), labelled_batch, on_output(functional.multi_margin_loss))
add(
    "perceptron, class weights",
    mlp(),
    labelled_batch,
    lambda m, b: functional.cross_entropy(m(b[0]), b[1], weight=CLASS_WEIGHTS.to(b[0].dtype)),
    weight=gradledger.class_weights(CLASS_WEIGHTS),
)
add(
    "perceptron, binary with pos_weight",
    mlp(),
    batch_of(normal(6), lambda g, n: classes(2, 3)(g, n).double()),
    lambda m, b: functional.binary_cross_entropy_with_logits(m(b[0]), b[1], pos_weight=POSITIVE_WEIGHTS.to(b[0].dtype)),
)
add(
    "perceptron, sample weights",
    mlp(),
    batch_of(normal(6), classes(3), uniform()),
    sample_weighted,
    weight=lambda batch: batch[2].sum(),
)
add(
    "perceptron, ignored labels",
    mlp(),
    batch_of(normal(6), some_labelled),
    cross_entropy,
    weight=lambda batch: (batch[1] != -100).sum(),
)
add(
    "distillation",
    mlp(),
    batch_of(normal(6), lambda g, n: normal(3)(g, n).softmax(-1)),
    lambda m, b: functional.kl_div(m(b[0]).log_softmax(-1), b[1], reduction="batchmean"),
)
add("frozen backbone", frozen_backbone, labelled_batch, cross_entropy)
add("residual", Residual, labelled_batch, cross_entropy)
add("residual, checkpointed", lambda: Residual(is_checkpointed=True), labelled_batch, cross_entropy)
add("weight norm", weight_normed, labelled_batch, cross_entropy)
add("experts", Experts, labelled_batch, cross_entropy)
add(
    "pairs, cosine",
    mlp(),
    batch_of(normal(6), normal(6), one_sided),
    lambda m, b: functional.cosine_embedding_loss(m(b[0]), m(b[1]), b[2]),
)
add(
    "given triplets",
    mlp(),
    batch_of(normal(6), normal(6), normal(6)),
    lambda m, b: functional.triplet_margin_loss(*(m(side) for side in b)),
    has_idle_parameter=True,
)
# Images
add("convolutions", convolutional(), images, cross_entropy)
add("convolutions, group norm", convolutional(lambda: nn.GroupNorm(2, 4)), images, cross_entropy)
add(
    "convolutions, instance norm",
    convolutional(lambda: nn.InstanceNorm2d(4)),
    images,
    cross_entropy,
    has_idle_parameter=True,
)
add("convolutions, frozen batch norm", frozen_norm, images, cross_entropy)
# Sequences
add("LSTM", lambda: Recurrent(nn.LSTM), batch_of(normal(4, 5), classes(3)), cross_entropy)
add("GRU", lambda: Recurrent(nn.GRU), batch_of(normal(4, 5), classes(3)), cross_entropy)
add("transformer, tokens", Transformer, sequences, on_output(per_token), weight=gradledger.tokens())
add(
    "transformer, tokens, sum",
    Transformer,
    sequences,
    on_output(per_token, reduction="sum"),
    weight=gradledger.tokens(),
    reduction="sum",
)
add(
    "transformer, smoothed tokens",
    Transformer,
    sequences,
    on_output(per_token, label_smoothing=0.1),
    weight=gradledger.tokens(),
)
add("tied language model", TiedLanguageModel, sequences, on_output(next_token), weight=gradledger.tokens(shift=True))
add(
    "loss inside the model",
    MeanLossInside,
    sequences,
    lambda m, b: m(*b)["loss"],
    weight=gradledger.tokens(shift=True),
)
add(
    "speech, connectionist",
    lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)),
    batch_of(normal(9, 5), lambda g, n: classes(3, 3)(g, n) + 1, lambda g, n: classes(3)(g, n) + 1),
    connectionist,
)
# Several terms
add(
    "transformer, two terms",
    Transformer,
    sequences,
    two_terms,
    weight={"tokens": gradledger.tokens(), "samples": lambda batch: len(batch[0])},
)
add(
    "two heads and a penalty",
    TwoHeads,
    batch_of(normal(6), some_labelled, normal()),
    classes_and_values,
    weight={"labels": lambda batch: (batch[1] != -100).sum(), "samples": lambda batch: len(batch[0])},
)
# Random numbers
add("perceptron, dropout", mlp(lambda: nn.Dropout(0.4)), labelled_batch, cross_entropy, is_random=True)
add("perceptron, alpha dropout", mlp(lambda: nn.AlphaDropout(0.3)), labelled_batch, cross_entropy, is_random=True)
add("perceptron, dropped paths", mlp(DropPath), labelled_batch, cross_entropy, is_random=True)
add("convolutions, 2d dropout", convolutional(lambda: nn.Dropout2d(0.4)), images, cross_entropy, is_random=True)
add(
    "transformer, dropout",
    lambda: Transformer(dropout=0.2),
    sequences,
    on_output(per_token),
    weight=gradledger.tokens(),
    is_random=True,
)
add(
    "transformer, dropout, time first",
    lambda: Transformer(dropout=0.2, batch_first=False),
    sequences,
    on_output(per_token),
    weight=gradledger.tokens(),
    is_random=True,
)
add("variational autoencoder", Variational, batch_of(normal(6)), evidence_bound, is_random=True)
