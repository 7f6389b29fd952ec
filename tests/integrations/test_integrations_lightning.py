"""What is Lightning's own: windows of changing length, scaled losses, and modules that cannot be made exact."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision

from gradledger import UserError
from gradledger.integrations.fabric import ExactWindows as FabricWindows
from gradledger.integrations.lightning import ExactWindows
from integrations.tasks import TASKS, made, whole_batches, windows
from integrations.trainers import QUIET, Module, loader_of, their_warnings_ignored, with_lightning

TASK = TASKS["tokens"]


def fit(module, **options):
    with their_warnings_ignored():
        lightning.Trainer(accelerator="cpu", devices=1, **QUIET, **options).fit(module, loader_of(TASK))


def test_windows_may_grow_with_epochs():
    growing = GradientAccumulationScheduler({0: 2, 1: 3})
    module = Module(TASK)
    fit(module, max_epochs=2, gradient_clip_val=0.5, callbacks=[ExactWindows(TASK.weight), growing])
    micro_batches = TASK.micro_batches
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    norms = []
    for window in [micro_batches[at : at + 2] for at in (0, 2, 4, 6)] + windows(TASK):
        optimizer.zero_grad()
        inputs, labels = (torch.cat([each[key] for each in window]) for key in ("inputs", "labels"))
        TASK.of(model, {"inputs": inputs, "labels": labels}).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
        schedule.step()
    assert module.norms == pytest.approx(norms, rel=1e-12)


def test_losses_scaled_for_float16_are_exact_and_a_skipped_step_opens_no_longer_window():
    """An infinite gradient in the first window: the scaler skips its step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)

    class Spoiled(Module):
        def on_after_backward(self):
            if self.trainer.global_step == 0 and not self.norms:
                self.model.head.bias.grad[0] = float("inf")

    module = Spoiled(TASK)
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    plugin.forward_context = torch.enable_grad  # a CPU has no use for float16, but for its scaler
    fit(
        module, max_epochs=1, accumulate_grad_batches=3, gradient_clip_val=0.5, plugins=[plugin],
        callbacks=[ExactWindows(TASK.weight)],
    )  # fmt: skip
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2 * 0.8, momentum=0.9)  # Lightning schedules skipped steps
    norms = []
    for window in windows(TASK)[1:]:
        optimizer.zero_grad()
        inputs, labels = (torch.cat([each[key] for each in window]) for key in ("inputs", "labels"))
        TASK.of(model, {"inputs": inputs, "labels": labels}).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
    assert scaler.get_scale() == 2.0**19
    assert module.norms[1:] == pytest.approx(norms, rel=1e-12)


def test_equal_micro_batches_are_left_as_they_are():
    """Bit for bit: nothing is multiplied where Lightning is right already."""
    even = TASKS["samples"]
    even = type(even)(even.loss, None, [even.micro_batches[0]] * 6)
    with_adapter, without = (with_lightning(even, exact=exact) for exact in (True, False))
    for own, plain in zip(with_adapter.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(own, plain)


def test_a_step_that_returns_nothing_weighs_nothing():
    class Skips(Module):
        def training_step(self, batch, index):
            return None if index == 1 else super().training_step(batch, index)

    module = Skips(TASKS["samples"])
    fit(module, max_epochs=1, accumulate_grad_batches=8, callbacks=[ExactWindows()])
    rest = [each for index, each in enumerate(TASK.micro_batches) if index != 1]
    expected = whole_batches(type(TASK)(TASKS["samples"].loss, None, rest), num_epochs=1, steps=8)
    assert module.norms == pytest.approx(expected.norms, rel=1e-12)


class Manual(Module):
    def __init__(self, task):
        super().__init__(task)
        self.automatic_optimization = False


class Fetches(Module):
    def training_step(self, dataloader_iter):
        return super().training_step(next(dataloader_iter)[0], 0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Manual, "manual optimization divides and steps by itself.*gradledger.Accumulator"), (Fetches, "take the batch")],
)
def test_modules_that_keep_their_own_windows_are_refused(kind, message):
    with pytest.raises(UserError, match=message):
        fit(kind(TASK), max_epochs=1, callbacks=[ExactWindows()])


def test_strategies_that_accumulate_or_share_samples_are_refused():
    class DeepSpeedStrategy:
        pass

    class ModelParallelStrategy:
        distributed_sampler_kwargs = {"num_replicas": 2}  # noqa: RUF012

    class FakeFabric:
        world_size = 4

        def __init__(self, strategy):
            self.strategy = strategy

    for strategy in (DeepSpeedStrategy(), ModelParallelStrategy()):
        with pytest.raises(UserError, match=f"{type(strategy).__name__} is not supported"):
            FabricWindows(FakeFabric(strategy), [], steps=2)


@pytest.mark.parametrize("steps", [0, 1.5, lambda _: None])
def test_steps_must_be_whole(steps):
    from lightning.fabric import Fabric

    with pytest.raises(UserError, match="a window holds a whole number of micro-batches"):
        FabricWindows(Fabric(accelerator="cpu", devices=1), [], steps=steps)


def test_several_units_are_refused():
    with pytest.raises(UserError, match="names several units, but a trainer has one loss a micro-batch"):
        ExactWindows({"tokens": 1.0, "pairs": 2.0})
