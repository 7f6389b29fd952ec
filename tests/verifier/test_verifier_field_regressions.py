"""What went wrong in public, each as a test that names it: the fault is measured, found, and absent from the engine.

Every test names the public thread that it retells; the code is our own.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradledger
from gradledger import Accumulator, verify, verify_step
from verifier.seeded_faults import FAULTS, STEP_FAULTS, batch, classifier, mean_loss


def tagger():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 8), nn.Tanh(), nn.Linear(8, 12))


def token_batch(lengths=(9, 3, 5, 7, 2, 8, 4, 6)):
    ids = torch.randint(12, (len(lengths), 9), generator=torch.Generator().manual_seed(1))
    return ids, ids.masked_fill(torch.arange(9) >= torch.tensor(lengths)[:, None], -100)


def token_loss(model, micro_batch, **options):
    return functional.cross_entropy(model(micro_batch[0]).flatten(0, 1), micro_batch[1].flatten(), **options)


def divided_by(divisor, loss_fn=mean_loss):
    def step_fn(model, optimizer, micro_batches):
        for micro_batch in micro_batches:
            (loss_fn(model, micro_batch) / divisor(micro_batches)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step_fn


def by_engine(loss_fn=mean_loss, **settings):
    """The same window through an accumulator, as a step function."""

    def step_fn(model, optimizer, micro_batches):
        accumulator = Accumulator(model, optimizer, **settings)
        for window in accumulator.windows(micro_batches, steps=len(micro_batches)):
            with window:
                for micro_batch in window:
                    window.backward(loss_fn(model, micro_batch))

    return step_fn


def cause_of(step_fn, model=None, loss_fn=mean_loss, data=None, **options):
    options = {"micro_batch_size": 4} | options
    result = verify_step(step_fn, model or classifier(), loss_fn, data or batch(32), **options)
    assert result.verdict == "not exact"
    return result.cause


def test_token_means_of_micro_batches_weighted_equally():
    """transformers#34191, unsloth.ai/blog/gradient, mlx-lm#1413, nanochat#59, LlamaFactory#10454."""
    data = token_batch()
    cause = cause_of(divided_by(len, token_loss), tagger(), token_loss, data, micro_batch_size=2)
    assert cause.slug == "wrong-denominator"
    assert (
        "micro-batches count equally, but the loss is a mean over elements of batch[1] that are not -100"
        in cause.message
    )
    right = by_engine(token_loss, weight=gradledger.tokens())
    assert verify_step(right, tagger(), token_loss, data, micro_batch_size=2).is_exact


@pytest.mark.parametrize("num_micro_batches", [2, 8])
def test_losses_that_are_never_divided(num_micro_batches):
    """transformers#35207 and #35438 (K = 2: gradient norm 188 to 495), trl#2617, DAB-DETR's kin."""
    cause = cause_of(divided_by(lambda _: 1), micro_batch_size=32 // num_micro_batches)
    assert cause.factor == pytest.approx(num_micro_batches, rel=1e-4)
    assert cause.message.endswith("not divided by the number of micro-batches")


def test_gradients_k_times_too_small_behind_a_loss_that_matches():
    """transformers#45305 and PR#45434: tests compared losses, which matched."""
    cause = cause_of(divided_by(lambda window: len(window) ** 2))
    assert cause.factor == pytest.approx(1 / 8, rel=1e-4)


def test_label_smoothing_outside_the_window():
    """transformers#46731 and PR#47261: about 9 times as large at K = 8, because the smoother's loss is not divided."""

    def smoothed(model, micro_batch):
        return functional.cross_entropy(model(micro_batch[0]), micro_batch[1], label_smoothing=0.1)

    cause = cause_of(divided_by(lambda _: 1, smoothed), loss_fn=smoothed)
    assert cause.factor == pytest.approx(8, rel=1e-4)
    assert verify_step(by_engine(smoothed), classifier(), smoothed, batch(27), micro_batch_size=4).is_exact


def test_a_factor_of_the_parallel_group():
    """transformers PR#45994 (loss 47.88 for 11.97: tensor parallel size) and PR#48167 (context parallel size)."""
    cause = cause_of(divided_by(lambda window: len(window) / 3))
    assert cause.factor == pytest.approx(3, rel=1e-4)
    assert "3.000 x the expected one" in cause.message


def test_adam_does_not_hide_a_wrong_scale():
    """aprender PR#2123: Adam and clipping masked a K times larger gradient, and tests on step counts passed."""
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731
    cause = cause_of(divided_by(lambda _: 1), optimizer=adam)
    assert cause.factor == pytest.approx(8, rel=1e-4)


def test_a_short_last_window_divided_by_the_full_number():
    """pytorch-lightning#19987, accelerate's short window, discuss.pytorch.org/t/55955, burn#5695, ms-swift#10084."""
    cause = cause_of(divided_by(lambda _: 4), data=batch(8))
    assert cause.factor == pytest.approx(0.5, rel=1e-4)
    assert verify_step(by_engine(), classifier(), mean_loss, batch(8), micro_batch_size=4).is_exact


def test_an_epoch_shorter_than_the_window_trains_nothing():
    """pytorch-lightning#21808."""
    assert cause_of(STEP_FAULTS["tail_that_is_never_stepped"].step_fn).slug == "num-steps"
    model = classifier()
    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for window in accumulator.windows([batch(4)] * 3, steps=8):
        with window:
            for micro_batch in window:
                window.backward(mean_loss(model, micro_batch))
    assert accumulator.num_updates == 1


def test_zeroing_inside_the_window():
    """starVLA#395, torchtitan PR#3575, RAE#67, DiffSynth-Studio PR#1404, accelerate#616."""
    assert "only the last of 8" in cause_of(STEP_FAULTS["zeroed_for_every_micro_batch"].step_fn).message


def test_zeroing_is_forgotten():
    """pytorch#47175 (open since 2020), DAB-DETR#58, wekws#72, DeepSpeed#7837."""
    cause = cause_of(STEP_FAULTS["never_zeroed"].step_fn)
    assert (cause.slug, cause.factor) == ("stale-gradient", pytest.approx(1.0, rel=1e-3))


def test_clipping_every_micro_batch():
    """transformers#986, lingua PR#59, tt-metal#17568, Keras#19990."""
    assert cause_of(STEP_FAULTS["clipped_for_every_micro_batch"].step_fn).slug == "clip"


def test_clipping_before_the_backward_clips_nothing():
    """nano-world-model PR#22: "checkpoints may have been trained without clipping"."""

    def step_fn(model, optimizer, micro_batches):
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        divided_by(len)(model, optimizer, micro_batches)

    cause = cause_of(step_fn, clip_norm=0.05)
    assert cause.slug == "wrong-scale"
    assert cause.factor > 1
    right = by_engine(clip_norm=0.05)
    assert verify_step(right, classifier(), mean_loss, batch(32), micro_batch_size=4, clip_norm=0.05).is_exact


def test_a_scaler_updated_once_per_optimizer_unscales_twice():
    """accelerate's optimizer.step with two optimizers and clipping: the second one's gradient is divided twice."""

    def step_fn(model, optimizer, micro_batches):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer.zero_grad()
        for micro_batch in micro_batches:
            scaler.scale(mean_loss(model, micro_batch) / len(micro_batches)).backward()
        scaler.unscale_(optimizer)
        scaler.update(1024.0)  # as the step of another optimizer does
        scaler.step(optimizer)

    cause = cause_of(step_fn)
    assert cause.factor == pytest.approx(1 / 1024, rel=1e-3)
    assert cause.message.endswith("the gradient scaler's factor was taken out twice")


def test_a_fused_loss_that_ignores_its_upstream_gradient():
    """Liger-Kernel#968 and PR#1298, unsloth PR#3823."""
    model, loss_fn, data = FAULTS["fused_loss_ignores_its_upstream_gradient"].make()
    assert verify(model, loss_fn, data, micro_batch_size=4).cause.where == "_FusedLossBackward"


def test_a_micro_batch_without_tokens_counts_nothing_and_is_no_nan():
    """Automodel#3796 (3 of 4 losses NaN), OLMo-core PR#657, nanochat PR#623, instructlab#547."""
    data = token_batch(lengths=(0, 0, 5, 7, 0, 8, 0, 0))
    assert token_loss(tagger(), [leaf[:2] for leaf in data]).isnan()
    assert verify(tagger(), token_loss, data, micro_batch_size=2, weight=gradledger.tokens()).is_exact


def test_bfloat16_gradients_stop_growing():
    """DeepSpeed#1800, Megatron-LM#372, pytorch#158709: 1000 micro-batches of 1e-3 give 0.5."""
    sums = {}
    for dtype in (None, torch.float32):
        model = nn.Linear(1, 1, bias=False).bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(lambda *_, m=model, d=dtype: sums.update({d: m.weight.grad.item()}))
        accumulator = Accumulator(model, optimizer, precision="bf16-true", accumulate_dtype=dtype)
        ones = [torch.ones(1, 1, dtype=torch.bfloat16)] * 1000
        for window in accumulator.windows(ones, steps=1000):
            with window:
                for x in window:
                    window.backward(model(x).mean())
    assert sums[torch.float32] == pytest.approx(1.0, abs=1e-3)
    assert sums[None] == pytest.approx(0.5, abs=1e-3)


def test_contrastive_losses_lose_their_negatives():
    """sentence-transformers PR#1822 ("you miss these additional negatives"), open_clip PR#267, pylate#70."""
    model, loss_fn, data = FAULTS["info_nce"].make()
    result = verify(model, loss_fn, data, micro_batch_size=4)
    assert result.cause.slug == "coupled-loss"
    assert result.worst.error_exact > 0.01
    accumulator = Accumulator(model.double(), torch.optim.SGD(model.parameters(), lr=0.0))
    pair = [side.double() for side in data]
    whole = loss_fn(model, pair)
    whole.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    update = accumulator.update_coupled(
        pair,
        lambda m, b: (m(b[0]), m(b[1])),
        lambda m, z, b: loss_fn(nn.Identity(), z),
        micro_batch_size=4,
    )
    assert (update.loss, update.grad_norm) == pytest.approx((whole.item(), norm), rel=1e-12)


def test_two_passes_keep_uneven_chunks_buffers_and_masks():
    """GradCache: 12 BatchNorm updates for 6 chunks, a zip that cuts the last chunk off; and the copies of its random
    context that sentence-transformers PR#3862 found silently wrong, because tests turned dropout off."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    twin = gradledger.verifier.sandbox.copy_of(model)
    inputs = torch.randn(23, 6, dtype=torch.float64)

    def loss_fn(_, z, batch):
        return functional.cross_entropy(z @ z.T, torch.arange(len(z)))

    accumulator = Accumulator(model, torch.optim.SGD(model.parameters(), lr=0.1))
    torch.manual_seed(7)
    accumulator.update_coupled(inputs, lambda m, x: m(x), loss_fn, micro_batch_size=4)
    torch.manual_seed(7)
    loss_fn(None, torch.cat([twin(inputs[at : at + 4]) for at in range(0, 23, 4)]), None).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert model[1].num_batches_tracked.item() == 6
    for ours, theirs in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_batch_norm_is_told_apart_from_an_accumulation_fault():
    """pytorch#46516 (open), yolov5#1630, GradientAccumulator#6, DeepLearningExamples#625."""
    model, loss_fn, data = FAULTS["batch_norm"].make()
    result = verify(model, loss_fn, data, micro_batch_size=4)
    assert (result.cause.slug, result.cause.where) == ("coupled-layer", "1")
    assert any("3 times per update instead of once" in note for note in result.notes)
    assert verify(model.eval(), loss_fn, data, micro_batch_size=4).is_exact


def test_a_balance_loss_of_experts_is_no_mean_over_micro_batches():
    """Automodel#1408, torchtitan PR#3000, ms-swift PR#10116: auxiliary losses per micro-batch."""
    model, loss_fn, data = FAULTS["load_balance_of_experts"].make()
    assert verify(model, loss_fn, data, micro_batch_size=4).cause.slug == "coupled-loss"


def test_a_regulariser_counts_once_per_window():
    """stylegan2 (a regulariser repeated for each micro-batch), ms-swift PR#10116: a scale of its own."""

    def loss_fn(model, micro_batch):
        penalty = 0.1 * sum(p.square().sum() for p in model.parameters())
        return {"samples": mean_loss(model, micro_batch), "window": penalty}

    weight = {"samples": lambda micro_batch: len(micro_batch[0])}
    assert verify(classifier(), loss_fn, batch(), micro_batch_size=4, weight=weight).is_exact

    def repeated(model, optimizer, micro_batches):
        for micro_batch in micro_batches:
            terms = loss_fn(model, micro_batch)
            (terms["samples"] / len(micro_batches) + terms["window"]).backward()
        optimizer.step()

    whole = lambda model, micro_batch: sum(loss_fn(model, micro_batch).values())  # noqa: E731
    assert not verify_step(repeated, classifier(), whole, batch(32), micro_batch_size=4).is_exact


def test_every_retold_thread_is_named():
    """A regression without its source cannot be looked up."""
    reference = re.compile(r"#\d+|discuss\.pytorch|accelerate's|GradCache|stylegan2")
    tests = [value for name, value in globals().items() if name.startswith("test_") and callable(value)]
    assert len(tests) >= 20
    assert [test.__name__ for test in tests[:-1] if not reference.search(test.__doc__ or "")] == []
