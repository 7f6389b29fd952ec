"""Correct: Lightning, manual optimisation; a short last window is stepped and divided by its own number of micro-batches."""
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(L.LightningModule):
    def __init__(self, accumulate=4):
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = accumulate
        self.net = nn.Linear(6, 3)
    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        n = self.trainer.num_training_batches
        start = batch_idx - batch_idx % self.accumulate
        window = min(self.accumulate, n - start)
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.manual_backward(loss / window)
        if batch_idx == start + window - 1:
            self.clip_gradients(opt, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            opt.step()
            opt.zero_grad()
            self.lr_schedulers().step()
        self.log("loss", loss)
    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=0.1)
        return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]

torch.manual_seed(238)
net = Net()
L.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(net, DataLoader(TensorDataset(torch.randn(40, 6), torch.randint(0, 3, (40,))), batch_size=4))
trained = list(net.parameters())
