"""Broken: manual optimisation every N batches, without the division that automatic optimisation would have done."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class ManualModel(L.LightningModule):
    def __init__(self, n):
        super().__init__()
        self.automatic_optimization = False
        self.n = n
        self.body = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.manual_backward(loss)  # expect: unnormalized-loss
        if (batch_idx + 1) % self.n == 0:
            opt.step()
            opt.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


torch.manual_seed(209)
m = ManualModel(n=3)
trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(m, DataLoader(TensorDataset(torch.randn(36, 5), torch.randint(0, 2, (36,))), batch_size=4))
trained = list(m.parameters())
