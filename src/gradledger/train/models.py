"""Built-in models: small enough to train in seconds, plain enough to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from gradledger.errors import UserError


def linear(*, input_shape: Sequence[int], num_outputs: int) -> nn.Module:
    """One linear layer over the flattened inputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(_num_features(input_shape), num_outputs))


def mlp(
    *, input_shape: Sequence[int], num_outputs: int, hidden: tuple[int, ...] = (64,), dropout: float = 0.0
) -> nn.Module:
    """Linear layers with ReLU between them.

    Args:
        input_shape: Shape of one sample's inputs; they are flattened.
        num_outputs: Values given for each sample.
        hidden: Width of each hidden layer.
        dropout: Share of hidden values set to 0 in training.
    """
    if not all(isinstance(width, int) and width > 0 for width in hidden):
        raise UserError(f"model.hidden is {list(hidden)}: it must be a list of widths of at least 1, such as [64, 32]")
    widths = [_num_features(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))


def cnn(*, input_shape: Sequence[int], num_outputs: int, channels: int = 16, dropout: float = 0.0) -> nn.Module:
    """Two convolutions with pooling between them, for images of height × width or channels × height × width.

    Args:
        input_shape: Shape of one image.
        num_outputs: Values given for each sample.
        channels: Channels of the first convolution; the second has twice as many.
        dropout: Share of the last features set to 0 in training.
    """
    if len(input_shape) not in (2, 3):
        raise UserError(f"model 'cnn' takes images, these inputs have the shape {list(input_shape)}: choose mlp")
    image_shape = (1, *input_shape) if len(input_shape) == 2 else tuple(input_shape)
    return nn.Sequential(
        nn.Flatten(),
        nn.Unflatten(1, image_shape),
        nn.Conv2d(image_shape[0], channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8 * channels, num_outputs),
    )


def transformer(
    *, input_shape: Sequence[int], num_outputs: int, width: int = 64, num_layers: int = 2, num_heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:  # fmt: skip
    """A causal transformer over characters, normalised before each part.

    Args:
        input_shape: The context length, alone.
        num_outputs: Characters of the alphabet.
        width: Values for each position; a multiple of ``num_heads``.
        num_layers: Attention and feed-forward pairs.
        num_heads: Attention heads.
        dropout: Share of values set to 0 in training.
    """
    if len(input_shape) != 1:
        raise UserError(f"model 'transformer' takes sequences, these inputs have the shape {list(input_shape)}")
    if width % num_heads:
        raise UserError(f"model.width ({width}) is not a multiple of model.num_heads ({num_heads})")
    return _Transformer(input_shape[0], num_outputs, width, num_layers, num_heads, dropout)


class _Transformer(nn.Module):
    def __init__(
        self, context_length: int, num_outputs: int, width: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_outputs, width)
        self.position = nn.Parameter(torch.randn(context_length, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes of shape (samples, positions) to logits of shape (samples, positions, characters)."""
        hidden = self.embedding(codes) + self.position[: codes.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self._attend(self.norms[0](hidden)))
        result: Tensor = hidden + self.dropout(self.feed_forward(self.norms[1](hidden)))
        return result

    def _attend(self, hidden: Tensor) -> Tensor:
        samples, positions, width = hidden.shape
        split = self.attention_in(hidden).view(samples, positions, 3, self.num_heads, width // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.attention_out(mixed.transpose(1, 2).reshape(samples, positions, width))
        return out


MODELS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "mlp": mlp, "cnn": cnn, "transformer": transformer}


def _num_features(input_shape: Sequence[int]) -> int:
    return torch.Size(input_shape).numel()
