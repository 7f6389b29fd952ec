"""The Hugging Face Trainer with every kind of loss that it knows, and what surrounds one."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)

from gradledger import UserError
from gradledger.integrations.transformers import ExactTrainer
from integrations import tasks
from integrations.tasks import TASKS, Tagger, whole_batches
from integrations.trainers import Exact, ExactOwnLoss, InOrder, OwnLoss, trained_by_hf

TOKENS = TASKS["tokens"]


class IgnoresTheCount(Tagger):
    """Takes ``num_items_in_batch`` and returns its own mean."""

    def forward(self, inputs, labels, **_):
        return super().forward(inputs, labels)


class UsesTheCount(Tagger):
    def forward(self, inputs, labels, num_items_in_batch=None, **_):
        logits = self.head(torch.tanh(self.hidden(inputs)))
        return {"loss": sum_over(logits, labels, num_items_in_batch), "logits": logits}


class Wrapped(nn.Module):
    """A wrapper as of an adapter library: what its forward takes says nothing of the model inside."""

    def __init__(self, *args):
        super().__init__()
        self.inner = Tagger()

    def forward(self, *args, **kwargs):
        kwargs.pop("num_items_in_batch", None)
        return self.inner(*args, **kwargs)


def sum_over(logits, labels, num_items):
    total = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / ((labels != -100).sum() if num_items is None else num_items)


def loss_func(outputs, labels, num_items_in_batch=None):
    return sum_over(outputs["logits"], labels, num_items_in_batch)


class NoLoss(Tagger):
    def forward(self, inputs, labels=None):
        return {"logits": self.head(torch.tanh(self.hidden(inputs)))}


def made(kind):
    torch.manual_seed(3)
    return kind().double()


LOSSES = {
    "a model that ignores the count": (IgnoresTheCount, {}),
    "a model that uses the count": (UsesTheCount, {}),
    "a wrapper": (Wrapped, {}),
    "compute_loss_func": (NoLoss, {"compute_loss_func": loss_func}),
}


@pytest.mark.parametrize(("kind", "options"), LOSSES.values(), ids=LOSSES)
def test_any_loss_is_exact_by_default(kind, options, tmp_path):
    expected = whole_batches(TOKENS)
    run = trained_by_hf(Exact, TOKENS, made(kind), tmp_path, **options)
    assert run.norms == pytest.approx(expected.norms, rel=1e-12)
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)
    assert run.distance(expected) < 1e-12


def even_task(num_micro_batches=6):
    """On which means of means are right."""
    even = tasks.micro_batches((2,) * num_micro_batches, seed=4)
    for each in even:
        each["labels"] = each["labels"].clamp(min=0)
    return dataclasses.replace(TOKENS, micro_batches=even)


def test_without_the_adapter_a_model_that_ignores_the_count_is_off_by_the_number_of_micro_batches(tmp_path):
    expected = whole_batches(even_task(), num_epochs=1)
    run = trained_by_hf(InOrder, even_task(), made(IgnoresTheCount), tmp_path, settings={"num_train_epochs": 1})
    assert run.norms[0] == pytest.approx(3 * expected.norms[0], rel=1e-12)


def test_label_smoothing(tmp_path):
    def smoothed(logits, labels):
        flat, counted = logits.flatten(0, -2), labels.flatten()
        return nn.functional.cross_entropy(flat, counted, ignore_index=-100, label_smoothing=0.2)

    expected = whole_batches(dataclasses.replace(TOKENS, loss=smoothed))
    model = made(NoLoss)
    model.config = LlamaConfig()  # which the Trainer asks for its kind of problem
    run = trained_by_hf(Exact, TOKENS, model, tmp_path, settings={"label_smoothing_factor": 0.2})
    assert run.norms == pytest.approx(expected.norms, rel=1e-6)  # it smooths in float32
    assert run.distance(expected) < 1e-7


class Listen(TrainerCallback):
    def __init__(self):
        self.losses = []

    def on_evaluate(self, args, state, control, metrics, **_):
        self.losses.append(metrics["eval_loss"])


def test_evaluation_is_as_before(tmp_path):
    settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 1}
    listeners = []
    for kind in (OwnLoss, ExactOwnLoss):
        listeners.append(Listen())
        trained_by_hf(
            kind, even_task(), made(Tagger), tmp_path, settings=settings, callbacks=[listeners[-1]],
            eval_dataset=TOKENS.micro_batches[2:],
        )  # fmt: skip
    assert len(listeners[0].losses) == 2
    assert listeners[1].losses == pytest.approx(listeners[0].losses, rel=1e-12)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_the_tail_of_a_stream_is_a_window_too(tmp_path):
    expected = whole_batches(TOKENS)
    stream = dataclasses.replace(TOKENS, micro_batches=Stream(TOKENS.micro_batches))
    run = trained_by_hf(Exact, stream, made(Tagger), tmp_path, settings={"max_steps": 6})
    assert run.norms == pytest.approx(expected.norms, rel=1e-12)
    assert run.distance(expected) < 1e-12


def test_without_the_adapter_the_tail_of_a_stream_waits_for_the_next_epoch(tmp_path):
    """Its 2 micro-batches, each divided by 2, and the first one of the next, divided by 3, are one window."""
    even = even_task(num_micro_batches=8)
    stream = dataclasses.replace(even, micro_batches=Stream(even.micro_batches))
    run = trained_by_hf(OwnLoss, stream, made(Tagger), tmp_path, settings={"max_steps": 3})
    expected = whole_batches(even, num_epochs=1)
    assert run.norms[:2] == pytest.approx(expected.norms[:2], rel=1e-12)
    assert abs(run.norms[2] / expected.norms[2] - 1.0) > 0.1


def tiny(architecture, config, **options):
    torch.manual_seed(0)
    return architecture(config(vocab_size=20, pad_token_id=0, **options)).double()


def llama():
    return tiny(
        LlamaForCausalLM, LlamaConfig, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip


def gpt2():
    return tiny(
        GPT2LMHeadModel, GPT2Config, n_positions=16, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def bert():
    return tiny(
        BertForTokenClassification, BertConfig, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=3,
    )  # fmt: skip


def rows_of_unlike_length(num_classes):
    generator = torch.Generator().manual_seed(1)
    found = []
    for length in (3, 9, 5):
        ids, labels = (torch.randint(high, (2, length), generator=generator) for high in (20, num_classes))
        labels[0, 1 : length // 2] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


@pytest.mark.parametrize(
    ("make", "first_counted", "plain"),
    [(llama, 1, 1.0), (gpt2, 1, None), (bert, 0, 3.0)],
    ids=["llama", "gpt2", "bert"],
)
def test_models_of_hugging_face_are_exact(make, first_counted, plain, tmp_path):
    """Plain, BERT's means add up (near 3 times the gradient), and GPT-2's are divided by labels that do not count."""
    batches = rows_of_unlike_length(3 if make is bert else 20)
    model = make()
    counts = [(each["labels"][:, first_counted:] != -100).sum() for each in batches]
    losses = [model(**each).loss * count for each, count in zip(batches, counts, strict=True)]
    (sum(losses) / sum(counts)).backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
    task, settings = dataclasses.replace(TOKENS, micro_batches=batches), {"max_steps": 1}
    run = trained_by_hf(Exact, task, make(), tmp_path, settings=settings)
    assert run.norms == pytest.approx([expected], rel=1e-6)  # attention and losses of some are in float32
    without = trained_by_hf(InOrder, task, make(), tmp_path, settings=settings)
    if plain == 1.0:
        assert without.norms == pytest.approx([expected], rel=1e-6)
    else:
        assert abs(without.norms[0] / expected - (plain or 1.0)) < 0.3
        assert without.norms[0] != pytest.approx(expected, rel=0.01)


class OwnLossFirst(OwnLoss, ExactTrainer):
    pass


class OwnWindowsFirst(InOrder, ExactTrainer):
    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return [next(epoch_iterator) for _ in range(num_batches)], None


@pytest.mark.parametrize(
    ("kind", "message"),
    [(OwnLossFirst, "the loss of OwnLossFirst was not given its share"), (OwnWindowsFirst, "reads its windows by")],
)
def test_a_trainer_that_goes_its_own_way_is_told_to_come_second(kind, message, tmp_path):
    with pytest.raises(UserError, match=rf"{message}.*ExactTrainer must come first"):
        trained_by_hf(kind, TOKENS, made(Tagger), tmp_path, settings={"max_steps": 2})


def test_data_parallel_is_refused(tmp_path, monkeypatch):
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    with pytest.raises(UserError, match="DataParallel averages over devices by itself"):
        trained_by_hf(Exact, TOKENS, made(Tagger), tmp_path)
