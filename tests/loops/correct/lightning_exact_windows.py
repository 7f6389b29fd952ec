"""Correct: Lightning with gradledger's exact windows as a callback: the last window is short, the last batch too."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradledger.integrations.lightning import ExactWindows


class Regressor(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


torch.manual_seed(232)
regressor = Regressor()
trainer = L.Trainer(
    max_epochs=2, accumulate_grad_batches=4, gradient_clip_val=1.0, accelerator="cpu", devices=1, callbacks=[ExactWindows()],
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(regressor, DataLoader(TensorDataset(torch.randn(38, 4), torch.randn(38, 1)), batch_size=4))
trained = list(regressor.parameters())
