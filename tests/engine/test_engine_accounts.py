"""Several accounts: gradients never reach another's parameters, whatever the order and the window lengths."""

import copy

import pytest
import torch
from torch import nn

from gradledger import Accumulator


def make_pair(seed=0):
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return generator, critic


def optimizers_of(generator, critic):
    return (
        torch.optim.Adam(generator.parameters(), lr=0.01),
        torch.optim.SGD(critic.parameters(), lr=0.05, momentum=0.9),
    )


def make_data(sizes=(4, 2, 3, 5, 1, 4)):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, generator=g).double(), torch.randn(n, 4, generator=g).double()) for n in sizes]


def critic_loss(generator, critic, noise, real):
    fake = generator(noise)  # not detached: the fence must hold by itself
    return (critic(fake) - critic(real)).mean()


def generator_loss(generator, critic, noise, _):
    return -critic(generator(noise)).mean()


def whole(batches):
    return tuple(torch.cat(leaves) for leaves in zip(*batches, strict=True))


def test_gan_with_unlike_window_lengths_interleaved():
    generator, critic = make_pair()
    ours_g, ours_d = optimizers_of(generator, critic)
    account_g = Accumulator(generator, ours_g, name="generator", clip_norm=1.0)
    account_d = Accumulator(critic, ours_d, name="critic", clip_norm=1.0)
    data = make_data()
    for slow in account_g.windows(data, steps=3):
        with slow:
            quick = account_d.windows(data[:4], steps=2)
            for batch in slow:
                slow.backward(generator_loss(generator, critic, *batch))
                window = next(quick, None)
                if window is not None:
                    with window:
                        for micro_batch in window:
                            window.backward(critic_loss(generator, critic, *micro_batch))

    reference_g, reference_d = make_pair()
    theirs_g, theirs_d = optimizers_of(reference_g, reference_d)
    for start in (0, 3):
        shares = [torch.zeros_like(p) for p in reference_g.parameters()]
        window = data[start : start + 3]
        num_samples = sum(len(noise) for noise, _ in window)
        quick_windows = iter([data[0:2], data[2:4]])
        for batch in window:
            loss = generator_loss(reference_g, reference_d, *batch) * len(batch[0]) / num_samples
            for share, gradient in zip(shares, torch.autograd.grad(loss, list(reference_g.parameters())), strict=True):
                share += gradient
            pair = next(quick_windows, None)
            if pair is not None:
                step(theirs_d, reference_d, critic_loss(reference_g, reference_d, *whole(pair)))
        for parameter, share in zip(reference_g.parameters(), shares, strict=True):
            parameter.grad = share
        nn.utils.clip_grad_norm_(reference_g.parameters(), 1.0)
        theirs_g.step()
    for ours, theirs in ((generator, reference_g), (critic, reference_d)):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-13)
    assert account_g.ledger.accounts == ("generator",)
    assert (account_g.num_updates, account_d.num_updates) == (2, 4)


def step(optimizer, module, loss):
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def test_nothing_reaches_the_other_account():
    generator, critic = make_pair()
    optimizer_g, optimizer_d = optimizers_of(generator, critic)
    account_g = Accumulator(generator, optimizer_g, name="generator")
    account_d = Accumulator(critic, optimizer_d, name="critic")
    with next(account_g.windows(make_data(), steps=6)) as window:
        for batch in window:
            window.backward(generator_loss(generator, critic, *batch))
            assert all(p.grad is None for p in critic.parameters())
    with next(account_d.windows(make_data(), steps=6)) as window:
        for batch in window:
            window.backward(critic_loss(generator, critic, *batch))
            assert all(p.grad is None for p in generator.parameters())


def test_a_fence_is_raised_only_where_it_is_needed(monkeypatch):
    generator, critic = make_pair()
    optimizer_g, optimizer_d = optimizers_of(generator, critic)
    account_g = Accumulator(generator, optimizer_g, name="generator")
    account_d = Accumulator(critic, optimizer_d, name="critic")
    asked = []
    backward = torch.autograd.backward
    monkeypatch.setattr(
        torch.autograd, "backward", lambda *a, **k: (asked.append(k.get("inputs") is not None), backward(*a, **k))
    )
    data = make_data()

    def use(account, loss_fn):
        asked.clear()
        with next(account.windows(data, steps=3)) as window:
            for batch in window:
                window.backward(loss_fn(generator, critic, *batch))
        assert all(p.grad is None for module in (generator, critic) for p in module.parameters())
        return set(asked)

    def alone(generator, critic, noise, real):
        return generator(noise).square().mean()

    assert use(account_g, alone) == {False}
    assert use(account_d, critic_loss) == {True}
    # The generator's graph changes: what reaches the critic once is cleared, and fenced in from then on.
    assert use(account_g, generator_loss) == {False}
    assert use(account_g, generator_loss) == {True}
    # Another account with an open window is always fenced off.
    with next(account_d.windows(data, steps=2)) as open_window:
        for batch in open_window:
            assert use_inside(account_g, generator_loss, generator, critic, data, asked) == {True}
            assert all(p.grad is None for p in generator.parameters())
            open_window.backward(critic_loss(generator, critic, *batch))


def use_inside(account, loss_fn, generator, critic, data, asked):
    asked.clear()
    with next(account.windows(data, steps=2)) as window:
        for batch in window:
            window.backward(loss_fn(generator, critic, *batch))
    return set(asked)


def test_a_forgotten_accumulator_does_not_hold_its_model():
    generator, critic = make_pair()
    forgotten = Accumulator(critic, torch.optim.SGD(critic.parameters(), lr=0.1))
    optimizer = forgotten.optimizer
    del forgotten
    assert not optimizer._optimizer_step_pre_hooks
    optimizer.step()


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation as people write it: climb, ask for the gradient there, come back, step."""

    def __init__(self, parameters, rho=0.05, lr=0.1):
        super().__init__(parameters, {"rho": rho, "lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        (group,) = self.param_groups
        norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
        climbs = [p.grad * (group["rho"] / norm) for p in group["params"]]
        for p, climb in zip(group["params"], climbs, strict=True):
            p.data.add_(climb)  # as many do it: autograd's version counter does not see it
        closure()
        for p, climb in zip(group["params"], climbs, strict=True):
            p.data.sub_(climb)
            p.add_(p.grad, alpha=-group["lr"])


def regression(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)).double()


def square_loss(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    "make_optimizer",
    [lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=6, line_search_fn="strong_wolfe"), Sam],
    ids=["lbfgs", "sam"],
)
def test_closure_optimizers_see_the_whole_batch(make_optimizer):
    ours, theirs = regression(), regression()
    made = [make_optimizer(m.parameters()) for m in (ours, theirs)]
    accumulator = Accumulator(ours, made[0])
    data = make_data()
    for window in accumulator.windows(data, steps=3):
        with window:
            window.replay(square_loss)
    for start in (0, 3):
        batch = whole(data[start : start + 3])

        def closure(batch=batch):
            made[1].zero_grad()
            with torch.enable_grad():
                loss = square_loss(theirs, batch)
            loss.backward()
            return loss

        expected = closure().item()
        made[1].step(closure)
    assert window.loss == pytest.approx(expected, rel=1e-9)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert accumulator.num_updates == 2


def test_every_replay_sees_the_same_dropout():
    model = regression(dropout=0.5)
    accumulator = Accumulator(model, torch.optim.LBFGS(model.parameters(), max_iter=4))
    masks = []
    model[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    accumulator.update(make_data()[0], square_loss, micro_batch_size=2)
    assert len(masks) > 4
    assert all(torch.equal(mask, masks[at % 2]) for at, mask in enumerate(masks))


def test_update_replays_by_itself():
    ours, theirs = regression(), regression()
    accumulator = Accumulator(ours, torch.optim.LBFGS(ours.parameters(), max_iter=3))
    batch = whole(make_data())
    accumulator.update(batch, square_loss, micro_batch_size=5)
    optimizer = torch.optim.LBFGS(theirs.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = square_loss(theirs, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert copy.copy(accumulator.totals) == {"samples": 19.0}
