"""Broken: a LightningModule zeroes in on_train_batch_start although windows hold two micro-batches."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)
    def on_train_batch_start(self, batch, batch_idx):
        self.optimizers().zero_grad()  # expect: discarded-gradient
    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

torch.manual_seed(241)
net = Net()
L.Trainer(accelerator="cpu", max_epochs=2, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(net, DataLoader(TensorDataset(torch.randn(40, 6), torch.randint(0, 3, (40,))), batch_size=4))
trained = list(net.parameters())
