"""What lint predicts is what audit records, on every loop of the corpus, or the difference is listed here by name.

Compared is what both can know: for each account the order of zeroing, backward, unscaling, clipping, step, scaler
update and schedule, the line of each, and the coefficient of each loss where both know it. What follows the last step
of a program (a zeroing that nothing comes after) is left out.
"""

import ast
import math
from collections.abc import Iterable

import pytest

import gradledger
from gradledger.ledger import Backward, Entry, Zero
from gradledger.lint.predict import predict
from loops.corpus import loops, name_of, run

LETTERS = {"Z": "Z", "V": "Z", "B": "B", "U": "U", "C": "C", "S": "S", "s": "S", "G": "G", "L": "L"}

DIFFERS = {
    "broken/discarded_in_except_branch": "the training stands in the `except` branch of an import that fails",
    "correct/gradscaler_skips_a_step": "which step the scaler refuses is in the numbers",
    "correct/lbfgs_closure": "how often L-BFGS calls its closure is in the numbers",
    "broken/hf_trainer_stream_tail": "how long a stream is, and where max_steps ends it, is in the run",
    "correct/lightning_datamodule": "Lightning zeroes once more before each validation, which changes nothing",
    "correct/lightning_epoch_schedule": "Lightning zeroes once more after an epoch's schedule, which changes nothing",
    "correct/megatron_main_grad_hooks": "the gradients reach the optimizer through buffers that a hook fills",
    "correct/non_finite_micro_batch_left_out": "which micro-batch is not finite is in the numbers",
    "correct/pinn_adam_then_lbfgs": "how often L-BFGS calls its closure is in the numbers",
    "correct/rate_finder_then_training": "the first optimizer is gone when another takes its parameters over",
    "correct/reinforce_episodes": "how long an episode lasts is in the numbers",
    "correct/stages_with_new_optimizers": "each stage's optimizer is gone when the next one takes its parameters over",
    "correct/skip_large_gradients": "which gradient is too large is in the numbers",
}

SEVERAL_PROCESSES = {"broken/ddp_two_ranks_drift_apart", "correct/ddp_two_ranks_no_sync"}
"""Their training happens in processes of their own, where this test's recorder is not."""

Event = tuple[str, int | None, float | None]


def projected(ledger: Iterable[Entry]) -> list[list[Event]]:
    accounts: dict[str, list[Event]] = {}
    for entry in ledger:
        if entry.letter in LETTERS and not (isinstance(entry, Zero) and entry.partial):
            line = entry.location.line if entry.location else None
            accounts.setdefault(entry.account, []).append((LETTERS[entry.letter], line, coefficient(entry)))
    trained = [events for events in accounts.values() if any(letter == "B" for letter, _, _ in events)]
    return sorted((without_last_zeros(events) for events in trained), key=lambda events: [e[:2] for e in events])


def coefficient(entry: Entry) -> float | None:
    if not isinstance(entry, Backward) or entry.scale is None or entry.reduction is None:
        return None
    return entry.scale if entry.reduction == "mean" else entry.weight and entry.scale * entry.weight


def without_last_zeros(events: list[Event]) -> list[Event]:
    while events[-1][0] == "Z":
        events = events[:-1]
    return events


def agree(left: list[list[Event]], right: list[list[Event]]) -> bool:
    return len(left) == len(right) and all(
        len(mine) == len(theirs) and all(map(same_event, mine, theirs))
        for mine, theirs in zip(left, right, strict=True)
    )


def same_event(left: Event, right: Event) -> bool:
    known = left[2] is not None and right[2] is not None
    return left[:2] == right[:2] and (not known or math.isclose(left[2], right[2], rel_tol=1e-3))


@pytest.mark.parametrize("path", [p for p in loops() if name_of(p) not in SEVERAL_PROCESSES], ids=name_of)
def test_lint_predicts_what_audit_records(path):
    with gradledger.audit() as auditor:
        run(path)
    recorded = projected(auditor.ledger)
    predictions = predict(ast.parse(path.read_text(encoding="utf-8")), str(path))
    runs = [projected(run.ledger) for runs in predictions.entries.values() for run in runs] or [[]]
    same = any(agree(recorded, predicted) for predicted in runs)
    assert same == (name_of(path) not in DIFFERS), f"recorded {recorded}\npredicted {runs[0]}"


def test_the_list_of_differences_names_loops_that_exist():
    assert set(DIFFERS) | SEVERAL_PROCESSES <= {name_of(path) for path in loops()}
