"""Correct: cached features of a window with a patch-embedding tower under checkpointing and a gradient scaler (OpenCLIP with --grad-checkpointing)."""
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class PatchTower(nn.Module):
    def __init__(self, patch, width, out, grad_checkpointing):
        super().__init__()
        self.embed = nn.Linear(patch, width)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.proj = nn.Parameter(torch.randn(width, out) * width ** -0.5)
        self.grad_checkpointing = grad_checkpointing

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return F.normalize(x.mean(1) @ self.proj, dim=-1)


torch.manual_seed(5)
image, text = PatchTower(12, 8, 6, True), nn.Sequential(nn.EmbeddingBag(40, 8), nn.Linear(8, 6))
params = [*image.parameters(), *text.parameters()]
opt = torch.optim.AdamW(params, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
accum_freq = 2

for step in range(3):
    pairs = [(torch.randn(4, 9, 12), torch.randint(0, 40, (4, 5))) for _ in range(accum_freq)]
    feats = {"image": [], "text": []}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i, t in pairs:
            feats["image"].append(image(i))
            feats["text"].append(F.normalize(text(t), dim=-1))
    opt.zero_grad()
    for j, (i, t) in enumerate(pairs):
        with torch.autocast("cpu", torch.bfloat16):
            fresh = {"image": image(i), "text": F.normalize(text(t), dim=-1)}
            inputs = {k: torch.cat(v[:j] + [fresh[k]] + v[j + 1:]) for k, v in feats.items()}
            logits = 20.0 * inputs["image"] @ inputs["text"].T
            target = torch.arange(len(logits))
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        scaler.scale(loss).backward()
    scaler.unscale_(opt)
    nn.utils.clip_grad_norm_(params, 1.0, norm_type=2.0)
    scaler.step(opt)
    scaler.update()
trained = params
