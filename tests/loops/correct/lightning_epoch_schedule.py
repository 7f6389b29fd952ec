"""Correct: Lightning, accumulation by default of one, scheduler per epoch, validation loop, gradient clipping by value."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.m = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

    def step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.m(x), y)

    def training_step(self, batch, idx):
        loss = self.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, idx):
        self.log("val_loss", self.step(batch))

    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters(), lr=1e-2)
        return {"optimizer": opt, "lr_scheduler": torch.optim.lr_scheduler.StepLR(opt, 1)}


torch.manual_seed(407)
lit = Lit()
ds = TensorDataset(torch.randn(30, 4), torch.randint(0, 2, (30,)))
trainer = L.Trainer(max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=0.5, gradient_clip_algorithm="value")
trainer.fit(lit, DataLoader(ds, batch_size=8), DataLoader(ds, batch_size=15))
trained = list(lit.parameters())
