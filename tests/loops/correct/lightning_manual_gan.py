"""Correct: Lightning with manual optimisation, two optimizers toggled in turn, each with a window of two."""
import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SimpleGAN(L.LightningModule):
    def __init__(self, accumulate=2):
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = accumulate
        self.G = nn.Linear(3, 2)
        self.D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        (real,) = batch
        g_opt, d_opt = self.optimizers()
        last = (batch_idx + 1) % self.accumulate == 0

        self.toggle_optimizer(d_opt)
        fake = self.G(torch.randn(len(real), 3)).detach()
        d_loss = F.softplus(-self.D(real)).mean() + F.softplus(self.D(fake)).mean()
        self.manual_backward(d_loss / self.accumulate)
        if last:
            d_opt.step()
            d_opt.zero_grad()
        self.untoggle_optimizer(d_opt)

        self.toggle_optimizer(g_opt)
        g_loss = F.softplus(-self.D(self.G(torch.randn(len(real), 3)))).mean()
        self.manual_backward(g_loss / self.accumulate)
        if last:
            self.clip_gradients(g_opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            g_opt.step()
            g_opt.zero_grad()
        self.untoggle_optimizer(g_opt)

    def configure_optimizers(self):
        return torch.optim.Adam(self.G.parameters(), lr=1e-3), torch.optim.Adam(self.D.parameters(), lr=1e-3)


torch.manual_seed(122)
gan = SimpleGAN()
options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
L.Trainer(max_epochs=2, accelerator="cpu", devices=1, **options).fit(gan, DataLoader(TensorDataset(torch.randn(24, 2)), batch_size=4))
trained = list(gan.parameters())
