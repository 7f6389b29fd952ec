"""`gradledger.audit()`: what it sees in one process, and that it leaves nothing behind."""

import gc
import inspect
import weakref

import pytest
import torch
from torch import nn

import gradledger
from gradledger.auditor.patches.table import TABLE, scheduler_classes
from gradledger.errors import UserError


def patched_places():
    """Everything in the table of patches, and what stands beside it."""
    return [(owner, name) for owner, name, _ in TABLE] + [(kind, "step") for kind in scheduler_classes()]


def state_of_torch():
    from torch.optim import optimizer

    own = {(owner, name): vars(owner).get(name) for owner, name in patched_places()}
    hooks = list(optimizer._global_optimizer_pre_hooks), list(optimizer._global_optimizer_post_hooks)
    return own, hooks


def small():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_every_patch_is_undone_also_after_an_error():
    before = state_of_torch()
    with gradledger.audit():
        during = state_of_torch()[0]
        assert all(during[place] is not before[0][place] for place in before[0] if place[1] != "step")
    assert state_of_torch() == before
    with pytest.raises(RuntimeError), gradledger.audit():
        raise RuntimeError
    assert state_of_torch() == before


def test_the_audited_parameters_are_let_go():
    with gradledger.audit() as auditor:
        model, optimizer = small()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        weight = weakref.ref(model.weight)
        del model, optimizer
        gc.collect()
        assert weight() is None
    assert auditor.num_updates == 1


def test_two_audits_at_once_are_a_mistake():
    with gradledger.audit(), pytest.raises(UserError, match="an audit is already running in this process"):
        gradledger.audit().__enter__()


def test_an_unknown_rule_is_refused_before_anything_is_patched():
    with pytest.raises(UserError, match="no rule 'stale'"):
        gradledger.audit(select=["stale"])


def test_optimizers_made_before_the_audit_are_seen():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).mean().backward()
            optimizer.step()
    assert auditor.ledger.text() == "Z B S Z B S Z B S"
    assert auditor.findings == []


def test_stop_after():
    model, optimizer = small()
    with gradledger.audit(stop_after=2) as auditor:
        while True:
            model(torch.ones(2, 3)).mean().backward()
            optimizer.step()
    assert auditor.stopped
    assert auditor.num_updates == 2


def ledger_of(body):
    """The text ledger of one window with a body of its own, then a step."""
    model, optimizer = small()
    x = torch.ones(2, 3)
    with gradledger.audit() as auditor:
        for _ in range(2):
            model(x).mean().backward()
            optimizer.step()
            body(model, optimizer)
        model(x).mean().backward()
    return auditor.ledger.text()


def each(action):
    def body(model, optimizer):
        for p in model.parameters():
            action(p)

    return body


def set_none(p):
    p.grad = None


def set_zeros(p):
    p.grad = torch.zeros_like(p)


ZEROINGS = {
    "optimizer": lambda m, o: o.zero_grad(),
    "in place": lambda m, o: o.zero_grad(set_to_none=False),
    "module": lambda m, o: m.zero_grad(),
    "module in place": lambda m, o: m.zero_grad(set_to_none=False),
    "none": each(set_none),
    "zero_": each(lambda p: p.grad.zero_()),
    "detached zero_": each(lambda p: p.grad.detach_().zero_()),
    "data zero_": each(lambda p: p.grad.data.zero_()),
    "zeros": each(set_zeros),
    "mul_ 0 is no zeroing by name": each(lambda p: p.grad.zero_()),
    "foreach": lambda m, o: torch._foreach_zero_([p.grad for p in m.parameters()]),
}


@pytest.mark.parametrize("way", ZEROINGS)
def test_zeroing_is_seen_in_every_form(way):
    assert ledger_of(ZEROINGS[way]) == "B S Z B S Z B"


def test_zeroing_a_part_is_not_zeroing():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        for _ in range(3):
            model(torch.ones(2, 3)).mean().backward()
            optimizer.step()
            model.weight.grad = None
    assert [finding.rule for finding in auditor.findings] == ["stale-gradient"]


def scaled(p, gradient):
    p.grad = gradient


CHANGES = {
    "div_": (each(lambda p: p.grad.div_(4)), 0.25),
    "mul_": (each(lambda p: p.grad.mul_(0.25)), 0.25),
    "augmented": (each(lambda p: p.grad.__itruediv__(4)), 0.25),
    "by a tensor": (each(lambda p: p.grad.div_(torch.tensor(4.0))), 0.25),
    "data": (each(lambda p: p.grad.data.div_(4)), 0.25),
    "foreach": (lambda m, o: torch._foreach_div_([p.grad for p in m.parameters()], 4), 0.25),
    "noise": (each(lambda p: p.grad.add_(torch.ones_like(p))), None),
    "data noise": (each(lambda p: p.grad.data.add_(1)), None),
    "clamped": (each(lambda p: p.grad.clamp_(-1, 1)), None),
    "one parameter": (lambda m, o: m.bias.grad.div_(4), None),
    "unlike factors": (lambda m, o: (m.bias.grad.div_(4), m.weight.grad.div_(2)), None),
}


@pytest.mark.parametrize("way", CHANGES)
def test_changes_by_hand_are_seen_with_their_factor(way):
    change, factor = CHANGES[way]
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(torch.ones(2, 3)).mean().backward()
        change(model, optimizer)
        optimizer.step()
    entry = next(entry for entry in auditor.ledger if entry.letter == "A")
    assert auditor.ledger.text() == "B A S"
    assert entry.factor == (None if factor is None else pytest.approx(factor))


def test_augmented_assignment_on_the_attribute():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(torch.ones(2, 3)).mean().backward()
        for p in model.parameters():
            p.grad /= 4
        optimizer.step()
    assert auditor.ledger.text() == "B A S"
    assert next(entry.factor for entry in auditor.ledger if entry.letter == "A") == 0.25


def last_backward(make_loss, **options):
    model, _optimizer = small()
    with gradledger.audit() as auditor:
        make_loss(model).backward(**options)
    return next(entry for entry in auditor.ledger if entry.letter == "B")


X, Y = torch.ones(6, 3), torch.ones(6, 1)
LABELS = torch.tensor([0, 2, -100, 1, 1, -100])
LOSSES = {
    "mean": (lambda m: m(X).mean(), "mean", 1.0, 6.0),
    "mse": (lambda m: nn.functional.mse_loss(m(X), Y) / 4, "mean", 0.25, 6.0),
    "product": (lambda m: 0.25 * nn.functional.mse_loss(m(X), Y), "mean", 0.25, 6.0),
    "negative": (lambda m: -m(X).mean() / 4, "mean", 0.25, 6.0),
    "tensor": (lambda m: m(X).mean() / torch.tensor(4.0), "mean", 0.25, 6.0),
    "twice": (lambda m: m(X).mean() / 4 / 4, "mean", 1 / 16, 6.0),
    "sum": (lambda m: m(X).sum() / 24, "sum", 1 / 24, 6.0),
    "sum by its own count": (lambda m: m(X).sum() / 6, "mean", 1.0, 6.0),
    "mse sum": (lambda m: nn.functional.mse_loss(m(X), Y, reduction="sum"), "sum", 1.0, 6.0),
    "tokens": (lambda m: nn.functional.cross_entropy(m(X).expand(6, 3), LABELS) / 2, "mean", 0.5, 4.0),
    "smoothed": (lambda m: nn.functional.cross_entropy(m(X).expand(6, 3), LABELS, label_smoothing=0.1) / 2, "mean", 0.5, 4.0),  # noqa: E501
    "two terms": (lambda m: (m(X).mean() + 0.1 * m(X).abs().mean()) / 4, "mean", 0.25, 6.0),
    "divided each": (lambda m: m(X).mean() / 4 + 0.3 * m(X).abs().mean() / 4, "mean", 0.25, 6.0),
    "unlike terms": (lambda m: m(X).mean() / 4 + m(X).abs().mean(), None, 1.0, None),
    "root": (lambda m: m(X).square().mean().sqrt(), None, 1.0, None),
    "learned weight": (lambda m: m(X).mean() * m.bias.squeeze(), None, 1.0, None),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_scale_reduction_and_weight_are_read_from_the_graph(case):
    make_loss, reduction, scale, weight = LOSSES[case]
    entry = last_backward(make_loss)
    assert entry.reduction == reduction
    assert entry.scale == pytest.approx(scale)
    assert entry.weight == weight


def test_the_gradient_argument_is_a_factor():
    entry = last_backward(lambda m: m(X).mean(), gradient=torch.tensor(0.25))
    assert entry.scale == 0.25


def test_numbers_that_vary_with_the_data_are_read_too():
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    entry = last_backward(lambda m: (m(X).squeeze(1) * mask).sum() / mask.sum() / 4)
    assert (entry.reduction, entry.scale, entry.weight) == ("mean", 0.25, 3.0)


def test_a_graph_gone_through_twice_and_a_nested_backward():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        y = model(X)
        y.mean().backward(retain_graph=True)
        y.abs().mean().backward()
        optimizer.step()
    first, second = (entry for entry in auditor.ledger if entry.letter == "B")
    assert (first.retained, second.reuses) == (True, first.call)
    assert first.micro_batch == second.micro_batch
    with gradledger.audit() as auditor:
        hidden = torch.utils.checkpoint.checkpoint(model, X.clone().requires_grad_(), use_reentrant=True)
        hidden.mean().backward()
    assert auditor.ledger.text() == "B"


def test_accounts_are_named_after_their_variables():
    with gradledger.audit() as auditor:
        first, second = nn.Linear(2, 2), nn.Linear(2, 1)
        body_optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
        head_optimizer = torch.optim.Adam(second.parameters())
        second(first(torch.ones(3, 2))).mean().backward()
        body_optimizer.step()
        head_optimizer.step()
    assert auditor.ledger.text() == "B:body_optimizer B:head_optimizer S:body_optimizer S:head_optimizer"


def test_a_parameter_group_added_later_belongs_to_the_account():
    model, optimizer = small()
    late = nn.Linear(1, 1)
    with gradledger.audit() as auditor:
        for number in range(4):
            if number == 1:
                optimizer.add_param_group({"params": late.parameters()})
            late(model(X)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            late.zero_grad()
    assert not [finding for finding in auditor.findings if finding.severity != "info"]


def test_long_runs_are_judged_in_parts_with_bounded_memory():
    model, optimizer = small()
    auditor = gradledger.audit()
    auditor._recorder.journal.max_entries = 50
    with auditor:
        for _ in range(60):
            model(X).mean().backward()
            optimizer.step()
    assert len(auditor.ledger) < 60
    (finding,) = auditor.findings
    assert finding.rule == "stale-gradient"
    assert finding.count >= 50
    assert finding.first_update == 1


def test_random_numbers_and_signatures_are_untouched():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with gradledger.audit():
        assert torch.equal(torch.rand(4), expected)
        assert list(inspect.signature(torch.optim.Optimizer.zero_grad).parameters) == ["self", "set_to_none"]


pytest_plugins = ["pytester"]

FIXTURE_TEST = """
    import torch

    def train(zero):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.ones(4, 2)).mean().backward()
            optimizer.step()
            if zero:
                optimizer.zero_grad()

    def test_wrong(gradient_audit):
        train(zero=False)

    def test_right(gradient_audit):
        train(zero=True)
        assert gradient_audit.findings == []

    def test_fails_by_itself(gradient_audit):
        train(zero=False)
        assert 1 == 2

    def test_without_it():
        train(zero=False)
"""


def test_the_pytest_fixture_fails_a_test_on_findings(pytester):
    pytester.makepyfile(FIXTURE_TEST)
    result = pytester.runpytest_inprocess("-p", "gradledger.pytest_plugin", "-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*error GL101 stale-gradient*", "*assert 1 == 2*"])


def test_reading_the_norm_is_no_clipping():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(X).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert auditor.ledger.text() == "B C S"


def at_once(action):
    action()


def after_a_failure(action):
    try:
        raise TimeoutError
    except TimeoutError:
        action()


def after_the_last_item(action):
    try:
        next(iter(()))
    except StopIteration:
        action()


@pytest.mark.parametrize(
    ("when", "text"), [(at_once, "B Z B S"), (after_a_failure, "B V B S"), (after_the_last_item, "B Z B S")]
)
@pytest.mark.parametrize("zero", [lambda m, o: o.zero_grad(), each(set_none)], ids=["zero_grad", "none"])
def test_a_window_is_given_up_where_an_exception_is_handled(when, text, zero):
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(X).mean().backward()
        when(lambda: zero(model, optimizer))
        model(X).mean().backward()
        optimizer.step()
    assert auditor.ledger.text() == text


def test_an_exception_that_was_handled_all_along_gives_nothing_up():
    model, optimizer = small()

    def train():
        model(X).mean().backward()
        optimizer.zero_grad()

    with gradledger.audit() as auditor:
        after_a_failure(train)
    assert auditor.ledger.text() == "B Z"


def test_evaluations_are_marked_where_they_begin():
    model, optimizer = small()
    head = nn.Linear(1, 1)
    with gradledger.audit() as auditor:
        for _ in range(2):
            model(X).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            nn.Sequential(model, head).eval()
            line = inspect.currentframe().f_lineno - 1
            with torch.no_grad():
                model(X)
            model.train()
        model.eval()  # and trained like this
        model(X).mean().backward()
        optimizer.step()
        head.eval()
        model.eval()
    assert auditor.ledger.text() == "B S Z E B S Z E B S E"
    assert next(entry.location.line for entry in auditor.ledger if entry.letter == "E") == line


def average_in_shadows(decay, update):
    """Each parameter's average in a list that ``update(shadow, parameter)`` returns anew or changes in place."""
    shadows = []

    def advance(model):
        nonlocal shadows
        shadows = shadows or [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            shadows = [update(s, p, decay) for s, p in zip(shadows, model.parameters(), strict=True)]

    return advance


def difference_in_steps(s, p, d):
    difference = s - p
    difference.mul_(1 - d)
    return s.sub_(difference)


def foreach_of_one(s, p, d):
    torch._foreach_mul_([s], d)
    torch._foreach_add_([s], [p], alpha=1 - d)
    return s


AVERAGES = {
    "multiplied and added": lambda s, p, d: s.mul_(d).add_(p, alpha=1 - d),
    "of data": lambda s, p, d: s.data.mul_(d).add_((1 - d) * p.data),
    "of a detached product": lambda s, p, d: s.mul_(d).add_(p.detach() * (1 - d)),
    "new": lambda s, p, d: d * s + (1.0 - d) * p.data,
    "new, the other way round": lambda s, p, d: (1.0 - d) * p + s * d,
    "difference": lambda s, p, d: s - (1 - d) * (s - p),
    "difference in place": lambda s, p, d: s.sub_((1 - d) * (s - p)),
    "difference in steps": difference_in_steps,
    "towards": lambda s, p, d: s.add_(p - s, alpha=1 - d),
    "lerp": lambda s, p, d: torch.lerp(s, p, 1 - d),
    "lerp from the weights": lambda s, p, d: s.copy_(p.lerp(s, d)),
    "lerp_": lambda s, p, d: s.lerp_(p, 1 - d),
    "foreach": foreach_of_one,
    "foreach lerp": lambda s, p, d: (torch._foreach_lerp_([s], [p], 1 - d), s)[1],
    "copied": lambda s, p, d: s.copy_(d * s + (1 - d) * p),
}

NO_AVERAGES = {
    "copied whole": lambda s, p, d: s.copy_(p),
    "weights in a sum": lambda s, p, d: s.add_(p, alpha=1 / 3),
    "decayed": lambda s, p, d: p.mul_(d) + s,
    "distance": lambda s, p, d: (p - s).norm() * torch.ones(3),
    "penalty": lambda s, p, d: p.grad.add_(p, alpha=0.1),
    "proximal": lambda s, p, d: p.grad.add_(p - s, alpha=0.1),
    "stepped": lambda s, p, d: p - 0.1 * p.grad,
    "pulled": lambda s, p, d: p.mul_(d).add_(s, alpha=1 - d),
    "extrapolated": lambda s, p, d: 2.0 * p - 1.0 * s,
}


@pytest.mark.parametrize("way", [*AVERAGES, *NO_AVERAGES])
def test_averages_by_hand_are_known_by_what_they_compute(way):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    advance = average_in_shadows(0.9, AVERAGES.get(way) or NO_AVERAGES[way])
    with gradledger.audit() as auditor:
        for _ in range(3):
            model(X).mean().backward()
            optimizer.step()
            advance(model)
            optimizer.zero_grad()
    letters = [letter for letter in auditor.ledger.text().split() if letter != "A"]
    assert "".join(letters) == ("BSWZ" if way in AVERAGES else "BSZ") * 3


def test_a_tensor_with_the_identity_of_a_former_gradient_is_none():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(X).mean().backward()
        optimizer.step()
        former = model.weight.grad
        optimizer.zero_grad()
        with torch.no_grad():
            # As where the memory of an object is used again: the same identity, and no gradient any more.
            former.mul_(0.9).add_(model.weight, alpha=0.1)
    assert auditor.ledger.text() == "B S Z W"


def test_an_average_that_is_not_of_these_weights_is_none():
    model, optimizer = small()
    other, s = nn.Linear(3, 1), torch.zeros(1, 3)
    with gradledger.audit() as auditor:
        model(X).mean().backward()
        with torch.no_grad():
            s.mul_(0.9).add_(other.weight, alpha=0.1)
            s.mul_(0.9).zero_()
            s.add_(model.weight, alpha=0.1)
            mixed = 0.3 * X + 0.7 * X.flip(0)
            assert mixed.shape == X.shape
        optimizer.step()
    assert auditor.ledger.text() == "B S"


def test_an_optimizer_made_anew_keeps_the_account():
    model, optimizer = small()
    with gradledger.audit() as auditor:
        model(X).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        gc.collect()
        model(X).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert auditor.ledger.text() == "B S Z B S Z"


def test_terms_fed_with_the_same_data_are_one_micro_batch():
    trunk, heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])
    optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.1)
    with gradledger.audit() as auditor:
        for x in torch.randn(4, 6, 3):
            for head in heads:
                head(trunk(x)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [entry.micro_batch for entry in auditor.ledger if entry.letter == "S"] == [1, 2, 3, 4]
    assert auditor.findings == []
    with gradledger.audit() as auditor:
        for i, x in enumerate(torch.randn(8, 6, 3)):
            heads[0](trunk(x)).mean().backward()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert "unnormalized-loss" in [finding.rule for finding in auditor.findings]
