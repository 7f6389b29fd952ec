"""Broken: manual optimisation must step its schedulers itself, and does so with every batch instead of every update."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(L.LightningModule):
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.lin = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = nn.functional.mse_loss(self.lin(x), x) / 2
        self.manual_backward(loss)
        opt, sch = self.optimizers(), self.lr_schedulers()
        if batch_idx % 2 == 1:
            opt.step()
            opt.zero_grad()
        sch.step()  # expect: scheduler-per-micro-batch

    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=0.1)
        return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]


torch.manual_seed(210)
net = Net()
loader = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=4)
off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
L.Trainer(accelerator="cpu", max_epochs=2, **off).fit(net, loader)
trained = list(net.parameters())
