"""Loops with an adapter are clean under our own audit, those without are not; and the audit in the trainers' logs."""

import dataclasses
import importlib
import logging
import sys

import lightning
import pytest
import torch
from lightning.fabric import Fabric
from transformers import TrainerCallback

import gradledger
from gradledger import UserError
from gradledger.integrations import lightning as lightning_adapter
from gradledger.integrations import transformers as transformers_adapter
from gradledger.integrations.auditing import TrainingAudit, audited
from integrations.tasks import TASKS, made, micro_batches
from integrations.trainers import (
    QUIET,
    TRAINERS,
    ExactOwnLoss,
    Module,
    OwnLoss,
    loader_of,
    new_accelerator,
    their_warnings_ignored,
    trained_by_hf,
)

SHORT_TAIL = dataclasses.replace(TASKS["samples"], micro_batches=micro_batches((2,) * 8))


def slugs(findings):
    return {finding.rule for finding in findings if finding.severity != "info"}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("task", [TASKS["tokens, own sum"], SHORT_TAIL], ids=["tokens", "short tail"])
def test_an_exact_loop_is_clean(trainer, task):
    with gradledger.audit() as auditor:
        TRAINERS[trainer](task, exact=True)
    assert auditor.num_updates == 6
    assert slugs(auditor.findings) == set()


@pytest.mark.parametrize("trainer", ["accelerate", "fabric", "lightning"])
def test_without_its_adapter_it_is_not(trainer):
    found = set()
    for task in (TASKS["tokens"], SHORT_TAIL):
        with gradledger.audit() as auditor:
            TRAINERS[trainer](task, exact=False)
        found |= slugs(auditor.findings)
    assert {"mean-of-means", "uneven-window-scale"} <= found


# Lightning's callback


class Numbers(lightning.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen.update(metrics)


def fit(module, callback, **options):
    with their_warnings_ignored():
        lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=3, callbacks=[callback],
            **{**QUIET, **options},
        ).fit(module, loader_of(SHORT_TAIL))  # fmt: skip


def test_lightning_tells_what_its_audit_found(caplog):
    numbers, callback = Numbers(), lightning_adapter.AuditCallback()
    with caplog.at_level(logging.WARNING, "lightning.pytorch.gradledger"):
        fit(Module(SHORT_TAIL), callback, logger=numbers)
    assert slugs(callback.findings) == {"uneven-window-scale"}
    assert callback.findings[0].location.file == __file__  # the line that calls fit
    assert numbers.seen == {"gradledger/errors": 1.0, "gradledger/warnings": 0.0}
    assert "GL202 uneven-window-scale" in caplog.text


def test_lightning_ends_with_an_error_where_that_is_asked_for():
    with pytest.raises(UserError, match=r"(?s)found what must be changed.*uneven-window-scale"):
        fit(Module(SHORT_TAIL), lightning_adapter.AuditCallback(raise_on_findings=True))
    fit(Module(SHORT_TAIL), lightning_adapter.AuditCallback(raise_on_findings=True, ignore=["uneven-window-scale"]))


class Fails(Module):
    def training_step(self, batch, index):
        if index == 4:
            raise RuntimeError("the data ends here")
        return super().training_step(batch, index)


def test_a_failing_fit_leaves_no_patch_and_tells_nothing():
    numbers = Numbers()
    with pytest.raises(RuntimeError, match="the data ends here"):
        fit(Fails(SHORT_TAIL), lightning_adapter.AuditCallback(raise_on_findings=True), logger=numbers)
    assert numbers.seen == {}
    assert TrainingAudit._latest is None


# The Hugging Face Trainer's


class FailsOnce(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 1:
            raise RuntimeError("the data ends here")


def test_the_hf_trainer_tells_what_its_audit_found(tmp_path):
    callback = transformers_adapter.AuditCallback()
    histories = []

    class Keep(TrainerCallback):
        def on_train_end(self, args, state, control, **_):
            histories.append(state.log_history)

    trained_by_hf(OwnLoss, TASKS["samples"], made(), tmp_path, callbacks=[callback, Keep()])
    assert slugs(callback.findings) == {"mean-of-means"}
    assert {"gradledger/errors": 1.0, "gradledger/warnings": 0.0, "step": 6} in histories[0]


def test_a_failed_train_is_given_up_by_the_next_one(tmp_path):
    first, second = (transformers_adapter.AuditCallback(raise_on_findings=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="the data ends here"):
        trained_by_hf(OwnLoss, TASKS["samples"], made(), tmp_path, callbacks=[first, FailsOnce()])
    task, weight = TASKS["tokens"], TASKS["tokens"].weight
    trained_by_hf(ExactOwnLoss, task, made(), tmp_path, weight=weight, callbacks=[second])
    assert (first.findings, slugs(second.findings)) == ([], set())
    with pytest.raises(UserError, match=r"(?s)found what must be changed.*mean-of-means"):
        trained_by_hf(OwnLoss, TASKS["samples"], made(), tmp_path, callbacks=[second])


# Accelerate and Fabric, in a block


def never_zeroed(backward):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in torch.ones(3, 4, 2):
        backward(model(x).mean())
        optimizer.step()


def test_accelerate_tells_its_trackers():
    accelerator = new_accelerator()
    seen = {}
    accelerator.log = seen.update
    with audited(accelerator) as audit:
        never_zeroed(accelerator.backward)
    assert slugs(audit.findings) == {"stale-gradient"}
    assert seen == {"gradledger/errors": 1.0, "gradledger/warnings": 0.0}


def test_fabric_tells_its_loggers(caplog):
    numbers = Numbers()
    fabric = Fabric(accelerator="cpu", devices=1, loggers=[numbers])
    with pytest.raises(UserError, match="stale-gradient"), audited(fabric, raise_on_findings=True):
        never_zeroed(fabric.backward)
    assert numbers.seen == {"gradledger/errors": 1.0, "gradledger/warnings": 0.0}
    assert "GL101 stale-gradient" in caplog.text


def test_an_error_in_the_block_goes_through():
    accelerator = new_accelerator()
    with pytest.raises(ZeroDivisionError), audited(accelerator, raise_on_findings=True):
        never_zeroed(accelerator.backward)
        _ = 1 / 0
    assert TrainingAudit._latest is None


def test_an_audit_around_it_is_left_to_tell():
    accelerator = new_accelerator()
    with gradledger.audit() as outer, audited(accelerator, raise_on_findings=True) as inner:
        never_zeroed(accelerator.backward)
    assert (slugs(inner.findings), slugs(outer.findings)) == (set(), {"stale-gradient"})


@pytest.mark.parametrize("make", [lightning_adapter.AuditCallback, transformers_adapter.AuditCallback, TrainingAudit])
def test_a_rule_that_does_not_exist_is_told_at_once(make):
    with pytest.raises(UserError, match="stale-gradients"):
        make(ignore=["stale-gradients"])


# Trainers that are not there


@pytest.mark.parametrize("peer", ["accelerate", "lightning", "transformers"])
def test_a_trainer_that_is_not_installed_is_named_with_its_extra(peer, monkeypatch):
    name = f"gradledger.integrations.{peer}"
    monkeypatch.delitem(sys.modules, name)
    for module in (peer, "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{name} needs {peer}, which is not installed: .*gradledger\[{peer}\]"):
        importlib.import_module(name)
