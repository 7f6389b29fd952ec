"""Correct: Lightning with a data module, bfloat16, validation in mid-epoch, two parameter groups, its own clipping."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lightning.pytorch.callbacks import EarlyStopping

class Data(L.LightningDataModule):
    def setup(self, stage):
        g = torch.Generator().manual_seed(0)
        self.train = TensorDataset(torch.randn(64, 6, generator=g), torch.randint(0, 3, (64,), generator=g))
        self.val = TensorDataset(torch.randn(12, 6, generator=g), torch.randint(0, 3, (12,), generator=g))
    def train_dataloader(self):
        return DataLoader(self.train, batch_size=4, shuffle=True)
    def val_dataloader(self):
        return DataLoader(self.val, batch_size=4)

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
    def forward(self, x):
        return self.head(torch.relu(self.body(x)))
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return {"loss": loss, "n": len(x)}
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
    def configure_optimizers(self):
        opt = torch.optim.AdamW([{"params": self.body.parameters(), "lr": 1e-3}, {"params": self.head.parameters(), "lr": 1e-2}])
        return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, 3)]

torch.manual_seed(234)
net = Net()
L.Trainer(accelerator="cpu", max_epochs=3, precision="bf16-mixed", accumulate_grad_batches=4, val_check_interval=8, callbacks=[EarlyStopping("val_loss", patience=9)], logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(net, datamodule=Data())
trained = list(net.parameters())
