"""Correct: fairseq: summed losses over ragged micro-batches, gradients multiplied once by 1 / tokens before clipping."""
import torch
from torch import nn


class Criterion:
    def __init__(self, padding_idx, eps=0.1):
        self.padding_idx, self.eps = padding_idx, eps

    def __call__(self, model, sample):
        lprobs = torch.log_softmax(model(sample["net_input"]), dim=-1).view(-1, 11)
        target = sample["target"].view(-1, 1)
        nll = -lprobs.gather(dim=-1, index=target)
        smooth = -lprobs.sum(dim=-1, keepdim=True)
        pad = target.eq(self.padding_idx)
        nll.masked_fill_(pad, 0.0)
        smooth.masked_fill_(pad, 0.0)
        nll, smooth = nll.sum(), smooth.sum()
        eps_i = self.eps / (lprobs.size(-1) - 1)
        loss = (1.0 - self.eps - eps_i) * nll + eps_i * smooth
        return loss, sample["ntokens"], {"loss": loss.data, "sample_size": sample["ntokens"]}


class Trainer:
    def __init__(self, model, criterion, clip_norm):
        self.model, self.criterion, self.clip_norm = model, criterion, clip_norm
        self.params = list(filter(lambda p: p.requires_grad, model.parameters()))
        self.optimizer = torch.optim.Adam(self.params, lr=5e-4, betas=(0.9, 0.98))
        self.num_updates = 0

    def train_step(self, samples):
        self.model.train()
        self.zero_grad()
        logging_outputs, sample_size = [], 0
        for i, sample in enumerate(samples):
            loss, sample_size_i, logging_output = self.criterion(self.model, sample)
            loss.backward()
            logging_outputs.append(logging_output)
            sample_size += sample_size_i
        self.multiply_grads(1.0 / (sample_size or 1.0))
        grad_norm = torch.nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        if not torch.isfinite(grad_norm):
            raise FloatingPointError("gradients are Nan/Inf")
        self.optimizer.step()
        self.num_updates += 1

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def multiply_grads(self, c):
        for p in self.params:
            if p.grad is not None:
                p.grad.data.mul_(c)


class GroupedIterator:
    def __init__(self, iterable, chunk_size):
        self.iterable, self.chunk_size = iterable, chunk_size

    def __iter__(self):
        chunk = []
        for item in self.iterable:
            chunk.append(item)
            if len(chunk) == self.chunk_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def batches(lengths):
    for n in lengths:
        tokens = torch.randint(2, 11, (3, n))
        tokens[0, n // 2:] = 1
        yield {"net_input": tokens, "target": tokens.roll(-1, 1), "ntokens": int(tokens.ne(1).sum())}


torch.manual_seed(8)
model = nn.Sequential(nn.Embedding(11, 8, padding_idx=1), nn.Linear(8, 11))
trainer = Trainer(model, Criterion(1), clip_norm=2.0)
for epoch in range(2):
    for samples in GroupedIterator(batches([4, 7, 5, 9, 6, 8, 4, 10, 3, 5]), 4):
        trainer.train_step(samples)
trained = list(model.parameters())
