"""What is Accelerate's own: where windows end, shared scalers, and loops that are left or nested."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from gradledger import UserError
from gradledger.integrations.accelerate import ExactWindows
from integrations.tasks import TASKS, made, optimizer_of, windows
from integrations.trainers import first, new_accelerator

TASK = TASKS["tokens"]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def whole_gradients(task, window, model):
    twin = made()
    twin.load_state_dict(model.state_dict())
    inputs, labels = (torch.cat([each[key] for each in window]) for key in ("inputs", "labels"))
    task.of(twin, {"inputs": inputs, "labels": labels}).backward()
    return gradients(twin)


def stepped_gradients(loader, *, leave_after=None, evaluate=False):
    """The gradient of each window, and the whole batch's, in a loop that accumulates 3 micro-batches."""
    accelerator = new_accelerator(gradient_accumulation_steps=3)
    model = made()
    model, optimizer, prepared = accelerator.prepare(model, optimizer_of(model), loader(accelerator))
    whole = iter(windows(TASK) * 2)
    seen = []
    batches = ExactWindows(accelerator, prepared, weight=TASK.weight)
    for _ in range(2):
        for number, micro_batch in enumerate(batches, start=1):
            with accelerator.accumulate(model):
                accelerator.backward(TASK.of(model, micro_batch))
                if accelerator.sync_gradients:
                    seen.append((gradients(model), whole_gradients(TASK, next(whole), model)))
                optimizer.step()
                optimizer.zero_grad()
            if evaluate:
                for other in accelerator.prepare(DataLoader([1, 2])):
                    accelerator.gather_for_metrics(other)
            if number == leave_after:
                whole = iter(windows(TASK))
                break
    assert "backward" not in vars(accelerator)
    assert accelerator.gradient_state.active_dataloader is not batches
    return seen


def prepared(accelerator):
    return accelerator.prepare(DataLoader(TASK.micro_batches, batch_size=1, collate_fn=first))


LOADERS = {
    "prepared": prepared,
    "not prepared": lambda _: TASK.micro_batches,
    "without a length": lambda _: DataLoader(Stream(), batch_size=None),
}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(TASK.micro_batches)


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("evaluate", [False, True])
def test_windows_end_with_the_loader(loader, evaluate):
    seen = stepped_gradients(loader, evaluate=evaluate)
    assert len(seen) == 6
    for own, whole in seen:
        torch.testing.assert_close(own, whole, rtol=1e-12, atol=1e-14)


def test_a_loop_may_be_left_after_a_window():
    seen = stepped_gradients(prepared, leave_after=6)
    assert len(seen) == 4
    for own, whole in seen:
        torch.testing.assert_close(own, whole, rtol=1e-12, atol=1e-14)


def test_a_loop_that_was_left_inside_a_window_is_told():
    with pytest.raises(UserError, match=r"inside a window \(2 of 3 micro-batches\).*accelerator.step = 0"):
        stepped_gradients(prepared, leave_after=2)


def test_a_loop_without_accumulate_is_told():
    accelerator = new_accelerator(gradient_accumulation_steps=3)
    model = accelerator.prepare(made())
    with pytest.raises(UserError, match=r"in the midst of a window of 3.*with accelerator.accumulate"):
        for micro_batch in ExactWindows(accelerator, TASK.micro_batches):
            accelerator.backward(TASK.of(model, micro_batch))


def test_two_loops_at_a_time_are_told():
    accelerator = new_accelerator(gradient_accumulation_steps=2)
    batches = ExactWindows(accelerator, TASK.micro_batches)
    with pytest.raises(UserError, match="iterates ExactWindows already"):
        list(zip(batches, batches, strict=True))
    assert "backward" not in vars(accelerator)


def test_metrics_drop_what_even_batches_added():
    accelerator = new_accelerator(gradient_accumulation_steps=3)
    loader = accelerator.prepare(DataLoader(torch.arange(10), batch_size=4))
    seen = [
        (accelerator.gradient_state.end_of_dataloader, accelerator.gradient_state.remainder)
        for _ in ExactWindows(accelerator, loader)
    ]
    assert seen == [(False, 2), (False, 2), (True, 2)]
    assert len(ExactWindows(accelerator, loader)) == 3


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, inputs):
        return self.head(torch.tanh(self.body(inputs)))


def heads_and_bodies(*, exact):
    """Both parts' gradients as their optimizers get them, under one gradient scaler, after unscaling by the loop."""
    accelerator = new_accelerator(gradient_accumulation_steps=2)
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True  # refused on a CPU, so told by hand
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
    model, seen = Halves(), []
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.0) for part in (model.body, model.head)]
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.append(optimizer.param_groups[0]["params"][0].grad.norm().item())
        )
    prepared_model, *optimizers = accelerator.prepare(model, *optimizers)
    loader = [torch.randn(2, 3, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    scales = []
    for inputs in ExactWindows(accelerator, loader) if exact else loader:
        with accelerator.accumulate(prepared_model):
            accelerator.backward(prepared_model(inputs).square().mean())
            if accelerator.sync_gradients:
                accelerator.unscale_gradients()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        scales.append(accelerator.scaler.get_scale())
    accelerator.state._mixed_precision = "no"
    assert "update" not in vars(accelerator.scaler)
    return seen, accelerator.scaler.get_scale()


def test_a_shared_scaler_is_updated_once_a_window():
    model = Halves()
    inputs = torch.cat([torch.randn(2, 3, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    model(inputs).square().mean().backward()
    expected = [model.body.weight.grad.norm().item(), model.head.weight.grad.norm().item()]
    seen, scale = heads_and_bodies(exact=True)
    assert seen[:2] == pytest.approx(expected, rel=1e-2)  # float16 forwards
    assert scale == 256.0 * 2**2  # it grows with each of the two windows
    seen, scale = heads_and_bodies(exact=False)
    assert seen[:2] == pytest.approx([expected[0], expected[1] / 512.0], rel=1e-2)
    assert scale == 256.0 * 2**4


def test_carried_windows_are_refused():
    from accelerate.utils import GradientAccumulationPlugin

    plugin = GradientAccumulationPlugin(num_steps=2, sync_with_dataloader=False)
    with pytest.raises(UserError, match="sync_with_dataloader=False carries"):
        ExactWindows(new_accelerator(gradient_accumulation_plugin=plugin), TASK.micro_batches)
