"""The plain loop: your model, your optimizer, your loader; four micro-batches of 16 make an update of 64."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import gradledger


def main() -> float:
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    images = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    labels = torch.tensor(digits.target)[order]
    loader = DataLoader(TensorDataset(images[:1500], labels[:1500]), batch_size=16, shuffle=True)

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    num_epochs = 5
    total_updates = gradledger.num_updates(loader, steps=4, epochs=num_epochs)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=total_updates)
    criterion = torch.nn.CrossEntropyLoss()

    accumulator = gradledger.Accumulator(model, optimizer, scheduler=scheduler, clip_norm=1.0)
    for epoch in range(num_epochs):
        for window in accumulator.windows(loader, steps=4):
            with window:
                for inputs, targets in window:
                    window.backward(criterion(model(inputs), targets))
        print(f"epoch {epoch}: {accumulator.num_updates} updates, loss of the last {window.loss:.4f}")

    with torch.no_grad():
        accuracy = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
    print(f"accuracy on {len(labels) - 1500} held-out images: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
