"""Correct: the accumulation callback {0: 1, 1: 2}; both divide the epoch's four batches."""
import torch
import lightning.pytorch as pl
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, TensorDataset


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Linear(3, 1)

    def training_step(self, batch):
        return self.w(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


torch.manual_seed(601)
lit = Lit()
kw = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
pl.Trainer(max_epochs=2, callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})], **kw).fit(lit, DataLoader(TensorDataset(torch.randn(16, 3)), batch_size=4))
trained = list(lit.parameters())
