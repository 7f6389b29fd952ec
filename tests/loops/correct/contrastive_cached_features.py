"""Correct: OpenCLIP's accum_freq: features of the window are cached without gradient, then each micro-batch's are put in fresh."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class TwoTowers(nn.Module):
    def __init__(self, image_dim=10, text_dim=6, embed_dim=5):
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(image_dim, 16), nn.GELU(), nn.Linear(16, embed_dim))
        self.text = nn.Linear(text_dim, embed_dim)
        self.logit_scale = nn.Parameter(torch.ones([]) * 2.0)

    def forward(self, image, text):
        return {
            "image_features": F.normalize(self.visual(image), dim=-1),
            "text_features": F.normalize(self.text(text), dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }


class ClipLoss(nn.Module):
    def forward(self, image_features, text_features, logit_scale, output_dict=False):
        logits_per_image = logit_scale * image_features @ text_features.T
        logits_per_text = logit_scale * text_features @ image_features.T
        labels = torch.arange(logits_per_image.shape[0], dtype=torch.long)
        total_loss = (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_text, labels)) / 2
        return {"contrastive_loss": total_loss} if output_dict else total_loss


def train_one_epoch(model, dataloader, loss, optimizer, scheduler, accum_freq):
    model.train()
    if accum_freq > 1:
        accum_images, accum_texts, accum_features = [], [], {}
    for i, batch in enumerate(dataloader):
        i_accum = i // accum_freq
        images, texts = batch
        if accum_freq == 1:
            optimizer.zero_grad()
            model_out = model(images, texts)
            losses = loss(**model_out, output_dict=True)
            total_loss = sum(losses.values())
            losses["loss"] = total_loss
            total_loss.backward()
        else:
            # First, cache the features without any gradient tracking.
            with torch.no_grad():
                model_out = model(images, texts)
                for f in ("logit_scale", "logit_bias"):
                    model_out.pop(f, None)
                for key, val in model_out.items():
                    if key in accum_features:
                        accum_features[key].append(val)
                    else:
                        accum_features[key] = [val]
                accum_images.append(images)
                accum_texts.append(texts)

            # If (i + 1) % accum_freq is not zero, move on to the next batch.
            if ((i + 1) % accum_freq) > 0:
                continue

            # Now, ready to take gradients for the last accum_freq batches.
            optimizer.zero_grad()
            for j in range(accum_freq):
                images = accum_images[j]
                texts = accum_texts[j]
                model_out = model(images, texts)
                logit_scale = model_out.pop("logit_scale")
                # every loss is the whole window's: the scale must get its gradient once
                inputs_no_accum = {"logit_scale": logit_scale.detach() if j else logit_scale}
                inputs = {}
                for key, val in accum_features.items():
                    accumulated = accum_features[key]
                    inputs[key] = torch.cat(accumulated[:j] + [model_out[key]] + accumulated[j + 1:])
                losses = loss(**inputs, **inputs_no_accum, output_dict=True)
                del inputs
                del inputs_no_accum
                total_loss = sum(losses.values())
                losses["loss"] = total_loss
                total_loss.backward()
        optimizer.step()
        scheduler(i_accum)
        # reset gradient accum, if enabled
        if accum_freq > 1:
            accum_images, accum_texts, accum_features = [], [], {}


torch.manual_seed(0)
model = TwoTowers()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def set_lr(step):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * (1 - step / 10)


data = DataLoader(TensorDataset(torch.randn(48, 10), torch.randn(48, 6)), batch_size=4, drop_last=True)
for epoch in range(2):
    train_one_epoch(model, data, ClipLoss(), optimizer, set_lr, accum_freq=4)
trained = list(model.parameters())
