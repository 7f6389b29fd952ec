"""With its adapter, every trainer's updates are those of the whole batches; without, they are off as is known."""

import dataclasses

import pytest
import torch

from integrations.tasks import STEPS, TASKS, made, micro_batches, whole_batches, windows
from integrations.trainers import TRAINERS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_updates_are_those_of_whole_batches(trainer, task):
    expected = whole_batches(task)
    run = TRAINERS[trainer](task, exact=True)
    assert run.norms == pytest.approx(expected.norms, rel=1e-12)
    assert run.distance(expected) < 1e-12
    # Where losses are logged (the Hugging Face Trainer adds them up in float32), they are the whole batches'.
    assert run.losses == pytest.approx(expected.losses[: len(run.losses)], rel=1e-6)


def norm_of_mean_of_means(task):
    """Of the first window."""
    model = made()
    for micro_batch in windows(task)[0]:
        (task.of(model, micro_batch) / STEPS).backward()
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_without_its_adapter_a_trainer_averages_means(trainer):
    task = TASKS["samples"]
    run = TRAINERS[trainer](task, exact=False, num_epochs=1)
    assert run.norms[0] == pytest.approx(norm_of_mean_of_means(task), rel=1e-12)
    assert abs(run.norms[0] / whole_batches(task).norms[0] - 1.0) > 0.01


@pytest.mark.parametrize(
    ("trainer", "factor"), [("accelerate", 2 / 3), ("fabric", 2 / 3), ("lightning", 2 / 3), ("hf trainer", 1.0)]
)
def test_without_its_adapter_a_trainer_divides_a_short_last_window_by_all_steps(trainer, factor):
    task = dataclasses.replace(TASKS["samples"], micro_batches=micro_batches((2,) * 8))
    expected = whole_batches(task)
    run = TRAINERS[trainer](task, exact=False, num_epochs=1)
    assert run.norms == pytest.approx([*expected.norms[:2], factor * expected.norms[2]], rel=1e-12)
    exact = TRAINERS[trainer](task, exact=True, num_epochs=1)
    assert exact.norms == pytest.approx(expected.norms[:3], rel=1e-12)
