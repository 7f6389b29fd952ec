"""Correct loops are right: cut into micro-batches or not, they end with the same weights.

Each loop here is run twice, as it is and rewritten so that a window's samples form one micro-batch. Loops without
accumulation have nothing to compare; a few others draw their samples in a way that cannot be rewritten so simply, and
were checked by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loops import corpus

Rewriting = list[tuple[str, str]]

WHOLE_BATCH: dict[str, Rewriting] = {
    "accelerate_accumulate": [
        ("gradient_accumulation_steps=4", "gradient_accumulation_steps=1"),
        ("batch_size=4", "batch_size=16"),
    ],
    "accelerate_exact_windows": [
        ("gradient_accumulation_steps=4", "gradient_accumulation_steps=1"),
        ("batch_size=2", "batch_size=8"),
    ],
    "accelerate_token_sums": [
        ("gradient_accumulation_steps=4", "gradient_accumulation_steps=1"),
        ("batch_size=2", "batch_size=8"),
    ],
    "apex_style_scale_loss": [
        ("gradient_accumulation_steps = 2", "gradient_accumulation_steps = 1"),
        ("range(8)", "range(4)"),
        ("xb = torch.randn(6, 4)", "xb = torch.cat([torch.randn(6, 4), torch.randn(6, 4)])"),
    ],
    "autograd_backward_function": [
        ("    rows =", "    window = [tuple(torch.cat(parts) for parts in zip(*window))]\n    rows =")
    ],
    "autograd_grad_by_hand": [
        ("lr, micro = 0.1, 4", "lr, micro = 0.1, 1"),
        ("start + 16, 4)", "start + 16, 16)"),
        ("lo + 4", "lo + 16"),
    ],
    "autograd_grad_into_optimizer": [
        ("for rows in (5, 3, 4)", "for rows in (12,)"),
        ("x = torch.randn(rows, 3)", "x = torch.cat([torch.randn(n, 3) for n in (5, 3, 4)])"),
    ],
    "bf16_autocast_onecycle": [
        ("ACCUM = 3, 4", "ACCUM = 3, 1"),
        ("batch_size=4", "batch_size=16"),
        ("drop_last=True", "drop_last=False"),
    ],
    "boundary_by_negation": [("k = 3", "k = 1"), ("torch.randn(9, 5, 4)", "torch.randn(9, 5, 4).reshape(3, 15, 4)")],
    "contrastive_cached_features": [("accum_freq=4", "accum_freq=1"), ("batch_size=4", "batch_size=16")],
    "contrastive_cached_ntxent": [
        (
            "    with torch.no_grad",
            "    chunks = [tuple(torch.cat(parts) for parts in zip(*chunks))]\n    with torch.no_grad",
        ),
        ("slice(i * N, (i + 1) * N)", "slice(None)"),
    ],
    "contrastive_cached_one_sided": [
        (
            "    with torch.no_grad",
            "    views = [tuple(torch.cat(parts) for parts in zip(*views))]\n    with torch.no_grad",
        )
    ],
    "contrastive_cached_sigmoid": [
        (
            "    with torch.no_grad",
            "    batches = [tuple(torch.cat(parts) for parts in zip(*batches))]\n    with torch.no_grad",
        )
    ],
    "contrastive_cached_triplet_margin": [(".split(4)", ".split(12)"), ("for i in range(3)", "for i in range(1)")],
    "contrastive_two_passes": [("chunk = 4", "chunk = 16")],
    "ddp_exit_stack": [("steps = 3", "steps = 1"), ("torch.randn(9, 4, 6)", "torch.randn(9, 4, 6).reshape(3, 12, 6)")],
    "ddp_nullcontext_ternary": [
        ("accumulation_steps = 3", "accumulation_steps = 1"),
        ("batch_size=4", "batch_size=12"),
    ],
    "distillation_teacher": [("accum = 2.0, 0.7, 2", "accum = 2.0, 0.7, 1"), ("batch_size=8", "batch_size=16")],
    "dpo_pairs": [
        ("grad_accum, beta = 4", "grad_accum, beta = 1"),
        ("slice(mb * 4, mb * 4 + 4)", "slice(0, 16)"),
        (".split(4)", ".split(16)"),
    ],
    "engine_facade": [
        ('"gradient_accumulation_steps": 4', '"gradient_accumulation_steps": 1'),
        ("torch.randn(8, 5, 6)", "torch.randn(8, 5, 6).reshape(2, 20, 6)"),
    ],
    "fabric_exact_windows": [("steps=4", "steps=1"), ("batch_size=4", "batch_size=16")],
    "fabric_accumulate": [("accumulate = 4", "accumulate = 1"), ("batch_size=4", "batch_size=16")],
    "frozen_backbone": [("accumulate = 2", "accumulate = 1"), ("batch_size=6", "batch_size=12")],
    "fsdp_sync_on_last": [
        ("torch.randn(3, num_micro_batches, 4, 6)", "torch.randn(3, 3, 4, 6).reshape(3, 1, 12, 6)"),
        ("num_micro_batches = 3", "num_micro_batches = 1"),
    ],
    "gradscaler_textbook": [
        ("iters_to_accumulate = 2", "iters_to_accumulate = 1"),
        ("for epoch", "data, targets = (torch.stack(ts).reshape(4, 8, 10) for ts in (data, targets))\nfor epoch"),
    ],
    "gradual_unfreezing": [
        ("range(2):", "range(1):"),
        ("x = torch.randn(6, 4)", "x = torch.cat([torch.randn(6, 4), torch.randn(6, 4)])"),
        ("* 0.5", "* 1.0"),
    ],
    "grpo_group_sums": [("num_generations, micro, mu = 8, 2, 2", "num_generations, micro, mu = 8, 8, 2")],
    "helper_functions": [("steps = 2, 4", "steps = 2, 1"), ("batch_size=8", "batch_size=32")],
    "hf_exact_trainer": [
        ("gradient_accumulation_steps=4", "gradient_accumulation_steps=1"),
        ("per_device_train_batch_size=2", "per_device_train_batch_size=8"),
    ],
    "hf_trainer_token_weighted": [
        ("gradient_accumulation_steps=3", "gradient_accumulation_steps=1"),
        ("per_device_train_batch_size=2", "per_device_train_batch_size=6"),
    ],
    "implicit_layer_custom_function": [
        ("torch.randn(8, 5, 4)", "torch.randn(8, 5, 4).reshape(4, 10, 4)"),
        ("/ 2).backward", "/ 1).backward"),
        ("n % 2 == 0", "True"),
    ],
    "kfold_new_model_each": [("accum=4", "accum=1"), ("batch_size=4", "batch_size=16")],
    "lbfgs_closure": [("X.chunk(3), Y.chunk(3)", "X.chunk(1), Y.chunk(1)")],
    "lightning_automatic": [
        ("accumulate_grad_batches=4", "accumulate_grad_batches=1"),
        ("batch_size=4", "batch_size=16"),
    ],
    "lightning_exact_windows": [
        ("accumulate_grad_batches=4", "accumulate_grad_batches=1"),
        ("batch_size=4", "batch_size=16"),
    ],
    "look_ahead_for_the_last": [("accumulate = 3", "accumulate = 1"), ("batch_size=4", "batch_size=12")],
    "losses_summed_then_one_backward": [("len(pending) == 3", "len(pending) == 1"), ("batch_size=8", "batch_size=24")],
    "low_rank_adapter": [
        ("accum = 0, 3", "accum = 0, 1"),
        ("torch.randn(12, 4, 6)", "torch.randn(12, 4, 6).reshape(4, 12, 6)"),
    ],
    "mean_times_share_of_tokens": [
        (
            "    for (src, tgt)",
            "    micro, counts = [tuple(torch.cat(parts) for parts in zip(*micro))], [total]\n    for (src, tgt)",
        )
    ],
    "metric_triplets": [("accum = 2", "accum = 1"), ("batch_size=8", "batch_size=16")],
    "micro_batches_by_chunk": [("max_rows=6", "max_rows=16")],
    "mixture_of_experts": [
        ("windows, n = 6, 2", "windows, n = 6, 1"),
        ("x = torch.randn(6, 4)", "x = torch.cat([torch.randn(6, 4), torch.randn(6, 4)])"),
    ],
    "modulo_before_increment": [("k = 5", "k = 1"), ("batch_size=4", "batch_size=20")],
    "muon_like_two_optimizers": [("grad_accum_steps = 3", "grad_accum_steps = 1"), ("batch_size=4", "batch_size=12")],
    "nerf_ray_chunks": [("chunk, decay = 22, 8", "chunk, decay = 22, 22")],
    "noam_wrapped_optimizer": [("update_freq = 2", "update_freq = 1"), ("(12, 3, 7))", "(12, 3, 7)).reshape(6, 6, 7)")],
    "noisy_gradients": [("for x in micro:", "for x in [torch.cat(micro)]:"), ("/ n_micro).backward", "/ 1).backward")],
    "non_finite_micro_batch_left_out": [
        ("for x in window:", "for x in [torch.cat([part for part in window if part.isfinite().all()])]:")
    ],
    "own_gradient_buffers": [
        ("for _ in range(n):", "for _ in range(1):"),
        ("x = torch.randn(8, 5)", "x = torch.cat([torch.randn(8, 5) for _ in range(n)])"),
        ("buf / n", "buf / 1"),
    ],
    "plain_accumulate_modulo": [
        ("accumulation_steps = 4", "accumulation_steps = 1"),
        ("batch_size=8", "batch_size=32"),
    ],
    "ppo_minibatches": [("micro_size = 2, 2, 16, 8, 4", "micro_size = 2, 2, 16, 8, 8")],
    "sam_two_passes": [
        (
            "    for x, y in batches:",
            "    batches = [tuple(torch.cat(parts) for parts in zip(*batches))]\n    for x, y in batches:",
        )
    ],
    "scaler_object_called": [
        ("accum_steps=4", "accum_steps=1"),
        ("batch_size=8", "batch_size=32"),
        ("batch_idx >= last_batch_idx_to_accum", "False"),
    ],
    "step_with_closure_adam": [
        ("batch_size=4", "batch_size=16"),
        ("len(batches), 4", "len(batches), 1"),
        ("start + 4", "start + 1"),
    ],
    "sum_then_divide_gradients": [("n % 3 == 0", "True"), ("batch_size=5", "batch_size=15")],
    "tail_divided_by_its_own_count": [("K = 4", "K = 1"), ("batch_size=6", "batch_size=24")],
    "trainer_class": [("accumulate: int = 3", "accumulate: int = 1"), ("batch_size: int = 4", "batch_size: int = 12")],
    "two_losses_one_graph": [("K, aux_weight = 3", "K, aux_weight = 1"), ("batch_size=6", "batch_size=18")],
    "validation_inside_the_epoch": [
        ('float("inf"), 4', 'float("inf"), 1'),
        ("(train_set, batch_size=4", "(train_set, batch_size=16"),
    ],
    "window_grows_with_epochs": [
        (
            "    for i, (x",
            "    loader = DataLoader(loader.dataset, batch_size=4 * current)\n    current = 1\n    for i, (x",
        )
    ],
    "accelerate_manual_window": [("n = 4", "n = 1"), ("batch_size=4", "batch_size=16")],
    "argparse_main_full_script": [
        ('gradient_accumulation_steps", type=int, default=3', 'gradient_accumulation_steps", type=int, default=1'),
        ('train_batch_size", type=int, default=4', 'train_batch_size", type=int, default=12'),
    ],
    "lookahead_wrapper_optimizer": [
        ("range(2):", "range(1):"),
        ("x = torch.randn(5, 4)", "x = torch.cat([torch.randn(5, 4), torch.randn(5, 4)])"),
        ("/ 2\n", "/ 1\n"),
    ],
    "static_loss_scale_by_hand": [
        ("micro_per_step = 4", "micro_per_step = 1"),
        ("torch.randn(12, 6, 3)", "torch.randn(12, 6, 3).reshape(3, 24, 3)"),
    ],
    "token_budget_micro_batches": [("budget=16", "budget=1000")],
    "train_mode_each_step": [("gas=2", "gas=1"), ("batch_size=4", "batch_size=8")],
    "warm_restarts_fraction": [("len(dl), 4", "len(dl), 1"), ("batch_size=8", "batch_size=32")],
    "windows_as_lists": [("windows(loader, 3)", "windows(loader, 1)"), ("batch_size=4", "batch_size=12")],
}

# What differs between the cuts for reasons of its own: random masks and rounding to half precision.
_NOISE: list[tuple[str, str]] = [
    (r"with torch\.autocast\([^\n]*\):", "if True:"),
    (r"nn\.Dropout\([^)]*\)", "nn.Identity()"),
    (r"n_head=2,", "n_head=2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,"),
]


def _source(name: str, rewriting: Rewriting) -> str:
    source = (corpus.ROOT / f"{name}.py").read_text(encoding="utf-8")
    for old, new in rewriting:
        assert old in source, f"{name} no longer says {old!r}"
        source = source.replace(old, new)
    for pattern, new in _NOISE:
        source = re.sub(pattern, new, source)
    return source


def _largest_difference(name: str, rewriting: Rewriting, folder: Path) -> float:
    weights = []
    for edition, edits in (("as_it_is", []), ("whole_batch", rewriting)):
        path = folder / f"{edition}.py"
        path.write_text(_source(name, edits), encoding="utf-8")
        weights.append(corpus.run(path))
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_micro_batches_train_like_the_whole_batch(name: str, tmp_path: Path) -> None:
    assert _largest_difference(f"correct/{name}", WHOLE_BATCH[name], tmp_path) < 2e-6


@pytest.mark.parametrize(
    ("name", "rewriting"),
    [
        ("unnormalized_never_divided", [("STEPS = 4", "STEPS = 1"), ("batch_size=4", "batch_size=16")]),
        (
            "uneven_tail_full_divisor",
            [("accumulation_steps = 4", "accumulation_steps = 1"), ("batch_size=4", "batch_size=16")],
        ),
        ("discarded_zero_every_micro_batch", [("steps = 4", "steps = 1"), ("batch_size=4", "batch_size=16")]),
    ],
)
def test_the_comparison_sees_a_broken_loop(name: str, rewriting: Rewriting, tmp_path: Path) -> None:
    assert _largest_difference(f"broken/{name}", rewriting, tmp_path) > 1e-4
