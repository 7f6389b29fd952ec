"""Broken: training_step divides by the steps, and Lightning's accumulate_grad_batches divides once more."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 3


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        return {"loss": loss / ACCUMULATE}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


torch.manual_seed(208)
model, data = Model(), TensorDataset(torch.randn(24, 4), torch.randn(24, 1))
flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
L.Trainer(accelerator="cpu", max_epochs=1, accumulate_grad_batches=ACCUMULATE, **flags).fit(model, DataLoader(data, batch_size=4))  # expect: double-normalized-loss
trained = list(model.parameters())
