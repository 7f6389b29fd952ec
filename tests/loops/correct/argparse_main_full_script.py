"""Correct: a whole fine-tuning script with arguments, logging, evaluation, warm-up schedule and best-model tracking."""
import argparse
import copy
import logging
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, TensorDataset

logger = logging.getLogger(__name__)


def parse_args(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_train_epochs", type=int, default=2)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--warmup_ratio", type=float, default=0.1)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args([] if argv is None else argv)


def get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_training_steps):
    def lr_lambda(step):
        if step < num_warmup_steps:
            return float(step) / float(max(1, num_warmup_steps))
        return max(0.0, float(num_training_steps - step) / float(max(1, num_training_steps - num_warmup_steps)))

    return LambdaLR(optimizer, lr_lambda)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, input_ids, labels=None):
        logits = self.classifier(self.norm(self.embeddings(input_ids)).mean(1))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return loss, logits


def evaluate(model, dataloader):
    model.eval()
    correct = total = 0
    for input_ids, labels in dataloader:
        with torch.no_grad():
            _, logits = model(input_ids)
        correct += (logits.argmax(-1) == labels).sum().item()
        total += len(labels)
    model.train()
    return correct / total


def train(args, model, train_dataset, eval_dataset):
    train_dataloader = DataLoader(train_dataset, sampler=RandomSampler(train_dataset), batch_size=args.per_device_train_batch_size)
    eval_dataloader = DataLoader(eval_dataset, sampler=SequentialSampler(eval_dataset), batch_size=8)
    no_decay = ["bias", "norm.weight"]
    grouped = [
        {"params": [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)], "weight_decay": args.weight_decay},
        {"params": [p for n, p in model.named_parameters() if any(nd in n for nd in no_decay)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(grouped, lr=args.learning_rate)
    num_update_steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
    max_train_steps = args.num_train_epochs * num_update_steps_per_epoch
    scheduler = get_linear_schedule_with_warmup(optimizer, int(args.warmup_ratio * max_train_steps), max_train_steps)
    logger.info("steps: %d", max_train_steps)
    tr_loss, best, best_state, global_step = 0.0, -1.0, None, 0
    model.zero_grad()
    for epoch in range(args.num_train_epochs):
        model.train()
        for step, (input_ids, labels) in enumerate(train_dataloader):
            loss, _ = model(input_ids, labels=labels)
            if args.gradient_accumulation_steps > 1:
                loss = loss / args.gradient_accumulation_steps
            loss.backward()
            tr_loss += loss.item()
            if (step + 1) % args.gradient_accumulation_steps == 0:
                nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                scheduler.step()
                model.zero_grad()
                global_step += 1
        accuracy = evaluate(model, eval_dataloader)
        if accuracy > best:
            best, best_state = accuracy, copy.deepcopy(model.state_dict())
    return global_step, tr_loss / global_step, best_state


args = parse_args()
torch.manual_seed(args.seed)
model = Classifier()
train_dataset = TensorDataset(torch.randint(0, 50, (48, 6)), torch.randint(0, 2, (48,)))
eval_dataset = TensorDataset(torch.randint(0, 50, (20, 6)), torch.randint(0, 2, (20,)))
train(args, model, train_dataset, eval_dataset)
trained = list(model.parameters())
