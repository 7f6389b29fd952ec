"""Weights: a language model whose micro-batches hold unlike numbers of tokens, with a second term per sample."""

import torch
from torch import nn

import gradledger

VOCABULARY, IGNORED = 40, -100


class Tagger(nn.Module):
    """Predicts a tag for each token, and a score for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.recurrent = nn.GRU(16, 32, batch_first=True)
        self.tags, self.score = nn.Linear(32, VOCABULARY), nn.Linear(32, 1)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.recurrent(self.embedding(tokens))
        return self.tags(states), self.score(last[-1]).squeeze(1)


def micro_batches(num: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of unlike length: shorter ones are padded, and padding is ignored."""
    made = []
    for _ in range(num):
        tokens = torch.randint(1, VOCABULARY, (8, int(torch.randint(4, 20, ()))))
        labels = tokens.roll(1, dims=1)
        labels[torch.rand(labels.shape) < 0.3] = IGNORED
        made.append({"tokens": tokens, "labels": labels, "score": tokens.float().mean(1) / VOCABULARY})
    return made


def main() -> float:
    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    weights = {"tokens": gradledger.tokens(IGNORED), "samples": lambda batch: len(batch["tokens"])}
    accumulator = gradledger.Accumulator(model, optimizer, weight=weights, clip_norm=1.0)
    for window in accumulator.windows(micro_batches(120), steps=4):
        with window:
            for batch in window:
                tags, score = model(batch["tokens"])
                token_loss = nn.functional.cross_entropy(tags.flatten(0, 1), batch["labels"].flatten())
                loss = 0.1 * nn.functional.mse_loss(score, batch["score"])
                window.backward(token_loss, per="tokens", retain_graph=True)
                window.backward(loss, per="samples")
    print(f"{accumulator.totals['tokens']:.0f} tokens in {accumulator.num_updates} updates, loss {window.loss:.4f}")
    return window.loss


if __name__ == "__main__":
    main()
