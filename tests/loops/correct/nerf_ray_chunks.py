"""Correct: NeRF: the rays of one update in chunks, the last one short; each chunk's mean counts by its share of the rays."""
import torch

torch.manual_seed(19)
mlp = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
optimizer = torch.optim.Adam(params=list(mlp.parameters()), lr=5e-4, betas=(0.9, 0.999))
N_rand, chunk, decay = 22, 8, 250


def embed(x):
    return torch.cat([f(x * 2.0 ** k) for k in range(2) for f in (torch.sin, torch.cos)], -1)


def render(rays):
    z = torch.linspace(0.1, 1, 6)
    raw = mlp(embed(rays[:, None, :] * z[:, None]))
    alpha = 1 - torch.exp(-torch.relu(raw[..., 3]))
    weights = alpha * torch.cumprod(torch.cat([torch.ones(len(rays), 1), 1 - alpha + 1e-10], -1), -1)[:, :-1]
    return (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(-2)


for global_step in range(5):
    rays, target = torch.randn(N_rand, 3), torch.rand(N_rand, 3)
    optimizer.zero_grad()
    psnr = 0.0
    for i in range(0, N_rand, chunk):
        rgb = render(rays[i:i + chunk])
        img_loss = torch.mean((rgb - target[i:i + chunk]) ** 2)
        loss = img_loss * (len(rgb) / N_rand)
        loss.backward()
        psnr += loss.detach()
    optimizer.step()
    for param_group in optimizer.param_groups:
        param_group["lr"] = 5e-4 * (0.1 ** (global_step / decay))
trained = list(mlp.parameters())
