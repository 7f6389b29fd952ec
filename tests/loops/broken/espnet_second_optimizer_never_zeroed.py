"""Broken: only the first of two optimizers is zeroed, the second one's gradients go on for ever."""
import torch
from torch import nn


def train_one_epoch(model, iterator, optimizers, schedulers, options):
    accum_grad, grad_clip = options["accum_grad"], options["grad_clip"]
    model.train()
    all_steps_are_invalid = True
    for iiter, (utt_id, batch) in enumerate(iterator, 1):
        retval = model(**batch)
        loss, stats, weight = retval
        stats = {k: v for k, v in stats.items() if v is not None}
        loss /= accum_grad
        loss.backward()
        if iiter % accum_grad == 0:
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=grad_clip, norm_type=2.0)
            if not isinstance(grad_norm, torch.Tensor):
                grad_norm = torch.tensor(grad_norm)
            if not torch.isfinite(grad_norm):
                pass
            else:
                all_steps_are_invalid = False
                for iopt, (optimizer, scheduler) in enumerate(zip(optimizers, schedulers)):
                    optimizer.step()  # expect: stale-gradient
                    if scheduler is not None:
                        scheduler.step()
            for iopt, optimizer in enumerate(optimizers[:1]):
                optimizer.zero_grad()
    return all_steps_are_invalid


class ASR(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.ctc = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, speech, text):
        h, _ = self.encoder(speech)
        logp = self.ctc(h).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((len(speech),), speech.size(1)), torch.full((len(text),), text.size(1))
        loss = nn.functional.ctc_loss(logp, text, *lengths, reduction="sum") / len(speech)
        return loss, {"loss": loss.detach(), "acc": None}, len(speech)


torch.manual_seed(9)
model = ASR()
optimizers = [torch.optim.Adam(model.encoder.parameters(), lr=1e-3), torch.optim.Adam(model.ctc.parameters(), lr=1e-2)]
schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda n: min(1.0, (n + 1) / 3)) for o in optimizers]
data = [(f"utt{i}", {"speech": torch.randn(3, 8, 4), "text": torch.randint(1, 5, (3, 3))}) for i in range(8)]
for _ in range(2):
    train_one_epoch(model, data, optimizers, schedulers, {"accum_grad": 4, "grad_clip": 5.0})
trained = list(model.parameters())
