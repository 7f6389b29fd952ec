"""The abstract machine on small programs: the ledger it predicts, the truths it tries, the bounds it keeps."""

import ast
import textwrap
import threading

import pytest

from gradledger.lint import lint_text
from gradledger.lint.predict import MAX_STEPS_PER_FILE, predict

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def predicted(source: str, entry: str = "") -> list[str]:
    """The ledger of every run of an entry point, as text without the marks of epochs."""
    runs = predict(ast.parse(textwrap.dedent(source)), "train.py").entries.get(entry, [])
    return [" ".join(letter for letter in run.ledger.text().split() if letter[0] not in "()M") for run in runs]


def found(source: str) -> list[tuple[int, str]]:
    report = lint_text(textwrap.dedent(source).encode(), "train.py")
    return [(f.location.line, f.rule) for f in report.findings if f.location and f.severity != "info"]


BODIES = {
    "boundary by remainder": (
        """
        for i, x in enumerate(torch.randn(6, 8, 4)):
            (model(x).mean() / 3).backward()
            if (i + 1) % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
        """,
        "B B B S Z B B B S Z",
    ),
    "continue until full": (
        """
        for i, x in enumerate(torch.randn(4, 8, 4), start=1):
            (model(x).mean() / 2).backward()
            if i % 2 != 0:
                continue
            optimizer.step()
            model.zero_grad()
        """,
        "B B S Z B B S Z",
    ),
    "zeroed by hand": (
        """
        for x in torch.randn(2, 8, 4):
            model(x).mean().backward()
            optimizer.step()
            for p in model.parameters():
                p.grad = None
        """,
        "B S Z B S Z",
    ),
    "divided gradients": (
        """
        for x in torch.randn(2, 8, 4):
            F.mse_loss(model(x), x[:, :1], reduction="sum").backward()
        for p in model.parameters():
            p.grad /= 16
        optimizer.step()
        """,
        "B B A S",
    ),
    "scaler": (
        """
        scaler = torch.amp.GradScaler()
        for x in torch.randn(2, 8, 4):
            scaler.scale(model(x).mean()).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        """,
        "B U C S G Z B U C S G Z",
    ),
    "scaler that is off": (
        """
        scaler = torch.amp.GradScaler(enabled=False)
        scaler.scale(model(torch.randn(8, 4)).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        """,
        "B S",
    ),
    "closure": (
        """
        def closure():
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).mean()
            loss.backward()
            return loss
        for _ in range(2):
            optimizer.step(closure)
        """,
        "Z B S Z B S",
    ),
    "generator": (
        """
        def windows(source, size):
            held = []
            for x in source:
                held.append(x)
                if len(held) == size:
                    yield held
                    held = []
        for window in windows(torch.randn(4, 8, 4), 2):
            for x in window:
                (model(x).mean() / len(window)).backward()
            optimizer.step()
            optimizer.zero_grad()
        """,
        "B B S Z B B S Z",
    ),
    "context manager of the file": (
        """
        from contextlib import contextmanager
        @contextmanager
        def update():
            yield
            optimizer.step()
            optimizer.zero_grad()
        for x in torch.randn(2, 8, 4):
            with update():
                model(x).mean().backward()
        """,
        "B S Z B S Z",
    ),
    "no gradients, no backward graph": (
        """
        with torch.no_grad():
            loss = model(torch.randn(8, 4)).mean()
        for _ in range(1):
            model(torch.randn(8, 4)).mean().backward()
            optimizer.step()
        """,
        "B S",
    ),
    "schedule and average": (
        """
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        ema = torch.optim.swa_utils.AveragedModel(model)
        model(torch.randn(8, 4)).mean().backward()
        optimizer.step()
        scheduler.step()
        ema.update_parameters(model)
        """,
        "B S L W",
    ),
    "arguments of the command line": (
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--accum-steps", type=int, default=2)
        args = parser.parse_args()
        for i, x in enumerate(torch.randn(4, 8, 4)):
            (model(x).mean() / args.accum_steps).backward()
            if i % args.accum_steps == args.accum_steps - 1:
                optimizer.step()
                optimizer.zero_grad()
        """,
        "B B S Z B B S Z",
    ),
}


@pytest.mark.parametrize(("body", "text"), BODIES.values(), ids=BODIES)
def test_the_ledger_of_a_program(body, text):
    assert predicted(HEAD + textwrap.dedent(body)) == [text]


ENTERED = """
import torch

def train(model, loader, optimizer, accumulation_steps=1, scheduler=None):
    for i, (x, y) in enumerate(loader):
        loss = torch.nn.functional.cross_entropy(model(x), y) / accumulation_steps
        loss.backward()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
"""


def test_a_function_that_nobody_calls_is_entered_with_unknown_arguments():
    one_call = "B B B S Z L B B B S Z L B"
    twice = f"{one_call} {one_call}"
    assert sorted(predicted(ENTERED, "train")) == sorted([twice, twice.replace(" L", "")])


def test_one_pass_over_the_data_is_called_again_so_that_its_tail_shows():
    assert found(ENTERED) == [(9, "leaked-tail")]
    inner = ENTERED.replace("    for i,", "    optimizer.zero_grad()\n    for i,")
    assert found(inner) == [(10, "dropped-tail")]
    mended = inner.replace("== 0:", "== 0 or (i + 1) == len(loader):")
    mended = mended.replace("/ accumulation_steps\n", "/ min(accumulation_steps, len(loader) - i // 3 * 3)\n")
    assert found(mended) == []


def test_a_function_with_epochs_of_its_own_may_carry_a_window_over_and_is_called_once():
    source = """
    import torch
    def fit(model, loader, optimizer, epochs, k=3):
        seen = 0
        for epoch in range(epochs):
            for x in loader:
                (model(x).loss / k).backward()
                seen += 1
                if seen % k == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    """
    assert predicted(source, "fit") == ["B B B S Z B B B S Z B B B S Z B B B S Z B B"]
    assert found(source) == []


def test_a_fragment_without_a_step_says_nothing():
    assert found("import torch\ndef helper(loss, k):\n    for _ in range(k):\n        loss.backward()\n") == []


FLAGS = """
import torch

def train(model, loader, optimizer, scaler, {parameters}):
    for x in loader:
        loss = model(x).mean()
        optimizer.zero_grad()
        if {first}:
            scaler.scale(loss).backward()
        else:
            loss.backward()
        if {second}:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
"""


def test_a_flag_has_one_truth_throughout_a_run():
    source = FLAGS.format(parameters="amp", first="amp", second="amp")
    assert sorted({text[:9] for text in predicted(source, "train")}) == ["Z B S Z B", "Z B U S G"]
    assert found(source) == []


def test_two_flags_that_may_go_together_are_not_blamed():
    assert found(FLAGS.format(parameters="amp, fp16", first="amp", second="fp16")) == []


def test_a_bug_that_one_flag_brings_about_is_found():
    source = FLAGS.format(parameters="amp", first="amp", second="False")
    assert found(source) == [(16, "step-without-scaler")]


def test_a_window_longer_than_assumed_lengthens_the_loader():
    source = ENTERED.replace("accumulation_steps=1", "accumulation_steps=5")
    assert {text.replace(" L", "") for text in predicted(source, "train")} == {
        "B B B B B S Z B B B B B S Z B B B B B B S Z B B B B B S Z B"
    }


def test_a_long_loop_is_shortened_with_the_same_tail():
    body = """
    for i in range(1000):
        (model(torch.randn(8, 4)).mean() / 3).backward()
        if (i + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
    """
    assert predicted(HEAD + textwrap.dedent(body)) == ["B B B S Z B B B S Z B"]


ENDLESS = {
    "while": "while True:\n    model(torch.randn(8, 4)).mean().backward()\n",
    "generator": "def forever():\n    while True:\n        yield torch.randn(8, 4)\n"
    "for x in forever():\n    model(x).mean().backward()\n    optimizer.step()\n    optimizer.zero_grad()\n",
    "lists": "held = [torch.randn(8, 4)]\nfor x in held:\n    held.append(x)\n    model(x).mean().backward()\n",
    "idle": "n = 0\nwhile True:\n    n += 1\nmodel(torch.randn(8, 4)).mean().backward()\n",
    "recursion": "def f(n):\n    model(torch.randn(8, 4)).mean().backward()\n    return f(n + 1)\nf(0)\n",
    "comprehension": "x = [i * j for i in range(10**9) for j in range(10**9)]\nmodel(torch.randn(8, 4)).backward()\n",
    "power": "x = 9 ** 9 ** 9 ** 9\ny = 'a' * 10**12\nmodel(torch.randn(8, 4)).backward()\noptimizer.step()\n",
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_endless_programs_end_and_accuse_nobody(body):
    before = threading.active_count()
    assert found(HEAD + body) == []
    assert threading.active_count() == before


def test_the_work_on_a_file_is_bounded():
    functions = "".join(f"def f{n}(x):\n    while x:\n        g(x).backward()\n" for n in range(200))
    assert MAX_STEPS_PER_FILE < 10**7
    lint_text(b"import torch\n" + functions.encode(), "train.py")


def test_an_optimizer_that_goes_out_of_sight_is_not_judged():
    source = HEAD + "from elsewhere import finish\nfor x in torch.randn(4, 8, 4):\n    model(x).mean().backward()\n"
    source += "    optimizer.step()\n    finish(optimizer)\n"
    report = lint_text(source.encode(), "train.py")
    assert report.findings == []
    assert report.not_analysed == [
        "train.py: not judged: the module: line 11 hands an optimizer to elsewhere.finish, elsewhere"
    ]


def test_a_fault_of_the_machine_costs_one_entry_point_its_analysis(monkeypatch):
    def fail(*arguments):
        raise KeyError("fault")

    monkeypatch.setattr("gradledger.lint.machine.machine.Machine.execute", fail)
    report = lint_text((HEAD + "model(1).backward()\n").encode(), "train.py")
    assert report.not_analysed == ["train.py: not analysed: the module: KeyError: 'fault'"]


BROKEN_OFF = """
from elsewhere import loader
for i, x in enumerate(loader):
    (model(x).mean() / 3).backward()
    if (i + 1) % 3 == 0:
        optimizer.step()
        optimizer.zero_grad()
    if i == 4:
        break
"""


def test_a_pass_of_unknown_length_says_nothing_of_the_tail_of_the_run():
    whole = (HEAD + BROKEN_OFF).replace("if i == 4", "if i == 400")
    assert found(HEAD + BROKEN_OFF) == []
    assert found(whole) == []
    assert found(whole.replace("from elsewhere import loader", "loader = torch.randn(7, 8, 4)")) == [
        (12, "dropped-tail")
    ]


def test_apex_takes_its_factor_out_on_leaving():
    source = (
        HEAD
        + """
from apex import amp
model, optimizer = amp.initialize(model, optimizer)
for i, x in enumerate(torch.randn(6, 8, 4)):
    loss = model(x).mean() / 3
    with amp.scale_loss(loss, optimizer) as scaled:
        scaled.backward()
    if (i + 1) % 3 == 0:
        nn.utils.clip_grad_norm_(amp.master_params(optimizer), 1.0)
        optimizer.step()
        optimizer.zero_grad()
"""
    )
    assert found(source) == []


WINDOW_FEATURES = (
    HEAD
    + """
stored = [model(x).detach() for x in batches]
for i, x in enumerate(batches):
    rows = torch.cat(stored[:i] + [model(x)] + stored[i + 1:])
    loss = F.mse_loss(rows, torch.zeros(12, 1))
    loss.backward()
optimizer.step()
""".replace("stored = ", "batches = [torch.randn(4, 4) for _ in range(3)]\nstored = ")
)


def test_a_loss_over_the_whole_window_is_not_divided():
    assert found(WINDOW_FEATURES) == []
    alone = WINDOW_FEATURES.replace("stored[:i] + [model(x)] + stored[i + 1:]", "[model(x)]")
    assert [rule for _, rule in found(alone)] == ["unnormalized-loss"]


def test_a_method_of_a_scheduler_that_is_no_step_advances_nothing():
    runs = predicted(
        """
        def train(model, optimizer, scheduler, loader):
            for x in loader:
                model(x).mean().backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                print(scheduler.get_last_lr())
        """,
        "train",
    )
    assert runs
    assert all(run.count("L") == run.count("S") for run in runs)


def test_what_an_outside_list_holds_is_the_same_in_each_loop_over_it():
    source = """
def train(model, optimizers, schedulers, loader):
    for x in loader:
        loss = model(x)
        loss.backward()
        for optimizer, scheduler in zip(optimizers, schedulers):
            optimizer.step()
            scheduler.step()
        for index, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
"""
    assert predicted(source, "train")[0].split()[:4] == ["B", "S", "L", "Z"]
    assert found(source) == []
    assert [rule for _, rule in found(source.partition("        for index")[0])] == ["stale-gradient"]


def test_a_guard_against_mistakes_does_not_end_the_run():
    source = """
class Recipe:
    def __init__(self, config):
        if config.steps != 17:
            raise ValueError("seventeen or nothing")
        if config.kind == "a":
            self.kind = 1
        else:
            raise NotImplementedError
        self.model, self.optimizer = config.model, config.optimizer

    def train(self, loader):
        for x in loader:
            self.model(x).loss.backward()
            self.optimizer.step()
"""
    assert [rule for _, rule in found(source)] == ["stale-gradient"]


def test_an_error_that_somebody_catches_is_raised():
    source = (
        HEAD
        + """
def guarded(x):
    if len(x) == 3:
        raise RuntimeError("out of memory")
    model(x).mean().backward()

for x in [torch.randn(3, 4), torch.randn(4, 4)]:
    try:
        guarded(x)
    except RuntimeError:
        continue
    optimizer.step()
    optimizer.zero_grad()
"""
    )
    assert predicted(source) == ["B S Z"]


def test_a_function_that_makes_its_optimizer_is_no_pass_of_a_training():
    source = """
def train(model, loader):
    optimizer = build_optimizer(model)
    scaler = torch.amp.GradScaler()
    for x in loader:
        scaler.scale(model(x).loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
"""
    assert found("import torch\n" + source) == []


def test_an_assumed_length_leaves_no_tail_at_the_end_of_the_run():
    source = (
        HEAD
        + """
step = 0
for epoch in range(2):
    for x in loader:
        loss = model(x).mean() / 3
        loss.backward()
        step += 1
        if step % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
"""
    )
    assert found(source) == []
    assert [rule for _, rule in found(source.replace("in loader", "in torch.randn(7, 8, 4)"))] == ["dropped-tail"]


MATCHES = {
    "value": ("'b'", "case 'a':\n    hit = 0\ncase 'b':\n    hit = 1"),
    "either": ("'b'", "case 'a' | 'b':\n    hit = 1"),
    "singleton": ("None", "case True:\n    hit = 0\ncase None:\n    hit = 1"),
    "sequence": ("[1, 2, 3]", "case [1, *rest] if len(rest) == 2:\n    hit = 1"),
    "nested": ("(1, (2, 3))", "case (1, (2, x)) if x == 3:\n    hit = 1"),
    "mapping": ("{'a': 1, 'b': 2}", "case {'a': x, **rest} if x == 1 and 'b' in rest:\n    hit = 1"),
    "class by keyword": ("P(1, 2)", "case P(y=2):\n    hit = 1"),
    "class by position": ("P(1, 2)", "case P(1, y) if y == 2:\n    hit = 1"),
    "type": ("3", "case str():\n    hit = 0\ncase int(n) if n == 3:\n    hit = 1"),
    "name": ("3", "case [x]:\n    hit = 0\ncase whole:\n    hit = whole - 2"),
    "none fits": ("3", "case 4:\n    hit = 0"),
}


@pytest.mark.parametrize(("subject", "cases"), MATCHES.values(), ids=MATCHES)
def test_match_takes_the_case_that_python_takes(subject, cases):
    source = (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int\nhit = 2\n"
        f"match {subject}:\n{textwrap.indent(cases, '    ')}\n"
    )
    names: dict = {}
    exec(source, names)
    body = HEAD + source + "for _ in range(hit):\n    model(torch.randn(8, 4)).mean().backward()\noptimizer.step()\n"
    assert predicted(body) == [" ".join(["B"] * names["hit"] + ["S"])]


def test_generators_without_end_are_given_up():
    source = (
        HEAD
        + """
def walk(module):
    yield module
    yield from walk(module)

for module in walk(model):
    loss.backward()
    optimizer.step()
"""
    )
    before = threading.active_count()
    report = lint_text(source.encode(), "train.py")
    assert "it makes too many generators" in report.not_analysed[0]
    assert threading.active_count() == before


def test_an_endless_source_is_given_up():
    source = HEAD + "import itertools\nfor x in [*itertools.count()]:\n    x.backward()\n    optimizer.step()\n"
    assert "too many steps" in lint_text(source.encode(), "train.py").not_analysed[0]
