"""Broken: an image-text similarity loss over each micro-batch alone: the negatives of the other micro-batches are missing (open_clip PR#267)."""
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(81)
image_encoder, text_encoder = nn.Linear(12, 6), nn.Linear(9, 6)
logit_scale = nn.Parameter(torch.tensor(2.0))
params = [*image_encoder.parameters(), *text_encoder.parameters(), logit_scale]
optimizer = torch.optim.AdamW(params, lr=1e-3)
accum_freq = 4

for i in range(8):
    images, texts = torch.randn(8, 12), torch.randn(8, 9)
    image_features = F.normalize(image_encoder(images), dim=-1)
    text_features = F.normalize(text_encoder(texts), dim=-1)
    logits_per_image = logit_scale.exp() * image_features @ text_features.T
    labels = torch.arange(len(images))
    loss = (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_image.T, labels)) / 2
    (loss / accum_freq).backward()  # expect: contrastive-in-window
    if (i + 1) % accum_freq == 0:
        optimizer.step()
        optimizer.zero_grad()

trained = params
