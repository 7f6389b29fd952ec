"""Broken: retain_graph=True before an adversarial pass that builds a graph of its own."""
import torch
import torch.nn.functional as F
from torch import nn


class FGM:
    def __init__(self, model):
        self.model, self.backup = model, {}

    def attack(self, epsilon=1.0, emb_name="emb."):
        for name, param in self.model.named_parameters():
            if param.requires_grad and emb_name in name:
                self.backup[name] = param.data.clone()
                norm = torch.norm(param.grad)
                if norm != 0 and not torch.isnan(norm):
                    param.data.add_(epsilon * param.grad / norm)

    def restore(self, emb_name="emb."):
        for name, param in self.model.named_parameters():
            if param.requires_grad and emb_name in name:
                param.data = self.backup[name]
        self.backup = {}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.drop, self.fc = nn.Embedding(15, 8), nn.Dropout(0.3), nn.Linear(8, 3)

    def forward(self, ids):
        return self.fc(self.drop(self.emb(ids).mean(1)))


def compute_kl_loss(p, q):
    p_loss = F.kl_div(F.log_softmax(p, dim=-1), F.softmax(q, dim=-1), reduction="none").sum()
    q_loss = F.kl_div(F.log_softmax(q, dim=-1), F.softmax(p, dim=-1), reduction="none").sum()
    return (p_loss + q_loss) / 2


torch.manual_seed(22)
model = Classifier()
fgm, optimizer = FGM(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
for batch in range(6):
    ids, label = torch.randint(0, 15, (6, 4)), torch.randint(0, 3, (6,))
    logits, logits2 = model(ids), model(ids)
    ce_loss = 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits2, label))
    loss = ce_loss + 4 * compute_kl_loss(logits, logits2)
    loss.backward(retain_graph=True)  # expect: retained-graph
    fgm.attack()
    loss_adv = F.cross_entropy(model(ids), label)
    loss_adv.backward()
    fgm.restore()
    optimizer.step()
    model.zero_grad()
trained = list(model.parameters())
