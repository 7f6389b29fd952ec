"""Hand over the effective batch: it is split to fit memory, and the update is that of the whole."""

import copy

import torch
from torch import nn

import gradledger


def loss_fn(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch["inputs"]).squeeze(1), batch["targets"])


def main() -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1)).double()
    whole = copy.deepcopy(model)
    accumulator = gradledger.Accumulator(model, torch.optim.AdamW(model.parameters(), lr=1e-2), clip_norm=1.0)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)

    truth = torch.randn(20, dtype=torch.float64)
    for _ in range(20):
        inputs = torch.randn(100, 20, dtype=torch.float64)
        batch = {"inputs": inputs, "targets": torch.sin(inputs @ truth)}
        update = accumulator.update(batch, loss_fn, micro_batch_size=16)  # 6 micro-batches of 16 and one of 4

        optimizer.zero_grad()  # the same, on the whole batch at once
        loss_fn(whole, batch).backward()
        nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()

    difference = max((p - q).abs().max().item() for p, q in zip(model.parameters(), whole.parameters(), strict=True))
    print(f"loss {update.loss:.4f}; largest difference from the whole batch after 20 updates: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
