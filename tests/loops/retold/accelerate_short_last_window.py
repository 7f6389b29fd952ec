"""Broken: accelerate steps at the loader's end, and still divides by all 4: a last window of 2 counts half."""
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset


def training_function():
    torch.manual_seed(201)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    dl = DataLoader(TensorDataset(torch.randn(40, 4), torch.randint(0, 3, (40,))), batch_size=4)
    net, opt, dl = accelerator.prepare(net, opt, dl)
    for epoch in range(2):
        for x, y in dl:
            with accelerator.accumulate(net):
                loss = F.cross_entropy(net(x), y)
                accelerator.backward(loss)  # expect: uneven-window-scale
                opt.step()
                opt.zero_grad()
    return list(accelerator.unwrap_model(net).parameters())


trained = training_function()
