"""Correct: a variational auto-encoder with summed losses, divided by the samples of the effective batch."""
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(12, 8)
        self.fc21, self.fc22 = nn.Linear(8, 3), nn.Linear(8, 3)
        self.fc3, self.fc4 = nn.Linear(3, 8), nn.Linear(8, 12)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x, reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


torch.manual_seed(137)
model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
train_loader = DataLoader(torch.rand(40, 12).round(), batch_size=5)
per_update = 4
for epoch in range(2):
    train_loss = 0
    for batch_idx, data in enumerate(train_loader):
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        (loss / (per_update * len(data))).backward()
        train_loss += loss.item()
        if batch_idx % per_update == per_update - 1:
            optimizer.step()
            optimizer.zero_grad()
    average = train_loss / len(train_loader.dataset)
trained = list(model.parameters())
