"""bfloat16 parameters accumulate in float32 where that is asked for, and everything is as before afterwards."""

import dataclasses

import lightning
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

import gradledger
from gradledger.integrations import accelerate, fabric
from gradledger.integrations import lightning as lightning_adapter
from integrations.tasks import TASKS
from integrations.trainers import QUIET, Exact, new_accelerator, their_warnings_ignored, trained_by_hf

NUM = 512  # a sum of as many 1 / 512 stops at a half in bfloat16
BATCHES = [{"inputs": torch.ones(1, 4).bfloat16(), "labels": torch.zeros(1, dtype=torch.long)}] * NUM


class Constant(nn.Module):
    """Its gradient is 1 in every micro-batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
        self.seen = []

    def forward(self, inputs, labels=None, **_):
        return {"loss": (inputs * self.weight).sum() / len(inputs)}


def watched(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: model.seen.append(model.weight.grad.clone()))
    return optimizer


def with_accelerate(dtype):
    accelerator = new_accelerator(gradient_accumulation_steps=NUM)
    model = Constant()
    prepared, optimizer = accelerator.prepare(model, watched(model))
    for micro_batch in accelerate.ExactWindows(accelerator, BATCHES, accumulate_dtype=dtype):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**micro_batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
    return model


def with_fabric(dtype):
    own = Fabric(accelerator="cpu", devices=1)
    model = Constant()
    wrapped, optimizer = own.setup(model, watched(model))
    batches = fabric.ExactWindows(own, BATCHES, steps=NUM, accumulate_dtype=dtype)
    for micro_batch in batches:
        batches.backward(wrapped(**micro_batch)["loss"])
        if not batches.is_accumulating:
            optimizer.step()
            optimizer.zero_grad()
    return model


def with_lightning(dtype):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Constant()

        def training_step(self, batch, _):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_before_optimizer_step(self, optimizer):
            self.model.seen.append(self.model.weight.grad.clone())

    module = Module()
    callback = lightning_adapter.ExactWindows(accumulate_dtype=dtype)
    with their_warnings_ignored():
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=1, accumulate_grad_batches=NUM, callbacks=[callback], **QUIET
        )
        trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None))
    return module.model


def with_hf_trainer(dtype, tmp_path):
    model = Constant()
    task = dataclasses.replace(TASKS["samples"], micro_batches=BATCHES)
    settings = {"gradient_accumulation_steps": NUM, "num_train_epochs": 1, "max_grad_norm": 0.0}
    trained_by_hf(Exact, task, model, tmp_path, settings=settings, optimizer=watched(model), accumulate_dtype=dtype)
    return model


TRAINERS = {
    "accelerate": with_accelerate, "fabric": with_fabric, "lightning": with_lightning, "hf trainer": with_hf_trainer,
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_gradients_accumulate_in_float32(trainer, tmp_path):
    with gradledger.audit() as auditor:
        model = TRAINERS[trainer](torch.float32, *([tmp_path] if trainer == "hf trainer" else []))
    assert model.seen[0].dtype == torch.bfloat16  # as optimizers need it
    assert model.seen[0].tolist() == [1.0] * 4
    assert model.weight.grad_dtype == torch.bfloat16
    assert [finding.rule for finding in auditor.findings if finding.severity != "info"] == []


def test_without_it_the_sum_stops_at_a_half():
    assert with_fabric(None).seen[0].tolist() == [0.5] * 4


def test_a_loop_that_is_left_leaves_gradients_of_the_parameters_type():
    own = Fabric(accelerator="cpu", devices=1)
    model = Constant()
    wrapped = own.setup_module(model)
    batches = fabric.ExactWindows(own, BATCHES, steps=NUM, accumulate_dtype=torch.float32)
    for micro_batch in batches:
        batches.backward(wrapped(**micro_batch)["loss"])
        assert model.weight.grad.dtype == torch.float32
        break
    assert model.weight.grad.dtype == model.weight.grad_dtype == torch.bfloat16
