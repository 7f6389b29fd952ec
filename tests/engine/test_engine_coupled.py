"""The two-pass mode against whole batches: contrastive losses, several encoders, dropout, clipping, mixed precision."""

import copy
import weakref

import pytest
import torch
from torch import nn

from engine.oracle import relative_distance
from gradledger import Accumulator, UserError


def info_nce(model, pair, batch):
    left, right = (nn.functional.normalize(z, dim=-1) for z in pair)
    return nn.functional.cross_entropy(left @ right.T * model.temperature.exp(), torch.arange(len(left)))


def hardest_triplets(model, z, batch):
    labels = batch[1]
    distances = torch.cdist(z, z)
    same = labels[:, None] == labels[None, :]
    return nn.functional.relu(distances.where(same, -1.0).amax(1) - distances.where(~same, 1e9).amin(1) + 0.5).mean()


def asymmetric(model, z, batch):
    scores = z["query"] @ z["document"].T
    return nn.functional.cross_entropy(scores, torch.arange(len(z["query"])) * 2)


class Drop(nn.Module):
    """Dropout whose random numbers come row by row, so that any split of a batch draws the same ones."""

    def forward(self, x):
        return x * (torch.rand(x.shape) < 0.7).to(x.dtype) / 0.7 if self.training else x


class TwoTowers(nn.Module):
    def __init__(self, dropout=Drop):
        super().__init__()
        self.query = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), dropout(), nn.Linear(8, 4))
        self.document = nn.Sequential(nn.Linear(5, 8), dropout(), nn.GELU(), nn.Linear(8, 4))
        self.temperature = nn.Parameter(torch.tensor(0.7))


def make(dropout=Drop, seed=0):
    torch.manual_seed(seed)
    return TwoTowers(dropout).double()


def data(num_samples=11, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(num_samples, width, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(6), draw(5), torch.arange(num_samples) % 3


def whole_update(model, optimizer, loss, clip_norm=None):
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or 1e9)
    optimizer.step()
    return loss.item(), norm.item()


def adam(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def encode_pair(model, micro_batch):
    return model.query(micro_batch[0]), model.document(micro_batch[1])


@pytest.mark.parametrize("size", [1, 3, 4, 11, 50])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_info_nce_is_the_whole_batch(size, clip_norm):
    ours, theirs = make(nn.Identity), make(nn.Identity)
    optimizers = adam(ours), adam(theirs)
    accumulator = Accumulator(ours, optimizers[0], clip_norm=clip_norm)
    for seed in range(3):
        batch = data(seed=seed)
        update = accumulator.update_coupled(batch, encode_pair, info_nce, micro_batch_size=size)
        loss, norm = whole_update(theirs, optimizers[1], info_nce(theirs, encode_pair(theirs, batch), batch), clip_norm)
        assert (update.loss, update.grad_norm) == pytest.approx((loss, norm), rel=1e-12)
    assert relative_distance(ours, theirs) <= 1e-10
    assert update.num_micro_batches == -(-11 // size)
    assert update.weight == 11
    assert accumulator.num_updates == 3


def test_hardest_triplets_are_the_whole_batch():
    ours, theirs = make(nn.Identity), make(nn.Identity)
    for model in (ours, theirs):
        model.document.requires_grad_(False)
        model.temperature.requires_grad_(False)
    optimizers = adam(ours), adam(theirs)
    encode = lambda m, b: m.query(b[0])  # noqa: E731
    batch = data()[0], data()[2]
    for _ in range(3):
        Accumulator(ours, optimizers[0]).update_coupled(batch, encode, hardest_triplets, micro_batch_size=4)
        whole_update(theirs, optimizers[1], hardest_triplets(theirs, encode(theirs, batch), batch))
    assert relative_distance(ours, theirs) <= 1e-10


def test_two_encoders_with_dropout_see_the_masks_of_the_whole_batch():
    ours, theirs = make(), make()
    optimizers = adam(ours), adam(theirs)
    accumulator = Accumulator(ours, optimizers[0])
    queries, _, _ = data(7)
    _, documents, _ = data(14)
    batch = {"query": queries, "document": documents}
    encode = {"query": lambda m, x: m.query(x), "document": lambda m, x: m.document(x)}
    for seed in range(3):
        torch.manual_seed(seed)
        sizes = {"query": 3, "document": 4}
        update = accumulator.update_coupled(batch, encode, asymmetric, micro_batch_size=sizes)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        z = {"query": theirs.query(queries), "document": theirs.document(documents)}
        whole_update(theirs, optimizers[1], asymmetric(theirs, z, batch))
        assert torch.equal(after, torch.get_rng_state())
    assert relative_distance(ours, theirs) <= 1e-10
    assert update.num_micro_batches == 3 + 4


def test_torch_dropout_draws_the_same_masks_in_both_passes():
    """The whole batch here is every micro-batch's graph kept alive, so each draws its masks once, in order."""
    ours, theirs = (make(lambda: nn.Dropout(0.4)) for _ in range(2))
    optimizers = adam(ours), adam(theirs)
    batch = data()
    torch.manual_seed(3)
    Accumulator(ours, optimizers[0]).update_coupled(batch, encode_pair, info_nce, micro_batch_size=4)
    torch.manual_seed(3)
    pairs = [encode_pair(theirs, [leaf[i : i + 4] for leaf in batch]) for i in range(0, 11, 4)]
    whole_update(theirs, optimizers[1], info_nce(theirs, [torch.cat(side) for side in zip(*pairs, strict=True)], batch))
    assert relative_distance(ours, theirs) <= 1e-10


def test_the_guard_sees_masks_that_are_not_restored(monkeypatch):
    from gradledger.engine.rewinding import Generators

    monkeypatch.setattr(Generators, "restore", lambda self: None)
    with pytest.raises(AssertionError):
        test_torch_dropout_draws_the_same_masks_in_both_passes()


def test_the_last_micro_batch_is_encoded_once():
    model, seen = make(nn.Identity), []

    def encode(model, micro_batch):
        seen.append(len(micro_batch[0]))
        return encode_pair(model, micro_batch)

    Accumulator(model, adam(model)).update_coupled(data(), encode, info_nce, micro_batch_size=4)
    assert seen == [4, 4, 3, 4, 4]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_the_whole_batch_in_that_precision(precision):
    models = [make(nn.Identity).float() for _ in range(2)]
    gradients = []
    batch = [leaf.float() if leaf.is_floating_point() else leaf for leaf in data(12)]
    for model, size in zip(models, (12, 4), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if precision == "16-mixed" else None
        before = copy.deepcopy(model)
        accumulator = Accumulator(model, optimizer, precision=precision, scaler=scaler)
        update = accumulator.update_coupled(batch, encode_pair, info_nce, micro_batch_size=size)
        assert not update.skipped
        gradients.append(
            [a.detach() - b.detach() for a, b in zip(before.parameters(), model.parameters(), strict=True)]
        )
    for whole, parts in zip(*gradients, strict=True):
        assert whole.norm() > 0
        assert (whole - parts).norm() <= 0.02 * whole.norm()


def test_buffers_move_once_per_micro_batch_and_statistics_once_when_pooled():
    for batch_norm, expected in (("micro-batch", 3), ("pooled", 1)):
        torch.manual_seed(0)
        model = make(nn.Identity)
        model.query.insert(0, nn.BatchNorm1d(6).double())
        batch = data()
        accumulator = Accumulator(model, adam(model), batch_norm=batch_norm)
        accumulator.update_coupled(batch, encode_pair, info_nce, micro_batch_size=4)
        assert model.query[0].num_batches_tracked.item() == expected
    whole = nn.BatchNorm1d(6).double()
    whole(batch[0])
    torch.testing.assert_close(model.query[0].running_var, whole.running_var, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.query[0].running_mean, whole.running_mean, rtol=1e-12, atol=0)


def test_a_forward_that_reads_its_buffers_is_replayed_from_them():
    """Spectral normalisation moves its vectors in every forward; a replay from other vectors has another gradient."""
    ours, theirs = make(nn.Identity), make(nn.Identity)
    for model in (ours, theirs):
        torch.manual_seed(1)
        nn.utils.parametrizations.spectral_norm(model.query[0])
    optimizers = adam(ours), adam(theirs)
    batch = data()
    Accumulator(ours, optimizers[0]).update_coupled(batch, encode_pair, info_nce, micro_batch_size=4)
    pairs = [encode_pair(theirs, [leaf[i : i + 4] for leaf in batch]) for i in range(0, 11, 4)]
    whole_update(theirs, optimizers[1], info_nce(theirs, [torch.cat(side) for side in zip(*pairs, strict=True)], batch))
    assert relative_distance(ours, theirs) <= 1e-10
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, theirs.get_buffer(name)), name


def test_the_ledger_of_a_coupled_update_balances():
    model = make()
    accumulator = Accumulator(model, adam(model), clip_norm=1.0)
    accumulator.update_coupled(data(), encode_pair, info_nce, micro_batch_size=4)
    assert accumulator.ledger.text() == "B B B C S Z"
    assert [entry.weight for entry in accumulator.ledger.windows()[0].backwards] == [4.0, 4.0, 3.0]


def test_hooks_see_the_update_once():
    model = make()
    accumulator = Accumulator(model, adam(model))
    seen = []
    accumulator.on_update(lambda window: seen.append((window.loss, window.weight, window.num_micro_batches)))
    update = accumulator.update_coupled(data(), encode_pair, info_nce, micro_batch_size=4)
    assert seen == [(update.loss, 11.0, 3)]


def test_gradients_reach_the_accounts_own_parameters_only():
    """A frozen-by-ownership tower: the other account's parameters and the temperature's gradients stay as they were."""
    model = make(nn.Identity)
    own = [*model.query.parameters(), model.temperature]
    accumulator = Accumulator(model, torch.optim.SGD(own, lr=0.1))
    other = Accumulator(model.document, torch.optim.SGD(model.document.parameters(), lr=0.1))
    before = [p.clone() for p in model.document.parameters()]
    update = accumulator.update_coupled(data(), encode_pair, info_nce, micro_batch_size=4)
    assert update.grad_norm > 0
    assert all(p.grad is None for p in model.document.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.document.parameters(), before, strict=True))
    assert other.num_updates == 0


class SavedBytes:
    """The most bytes that autograd kept at any moment."""

    def __init__(self):
        self.now = self.peak = 0

    def pack(self, tensor):
        kept = Kept(tensor)
        self.now += tensor.nbytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self.release, tensor.nbytes)
        return kept

    def release(self, num_bytes):
        self.now -= num_bytes


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


def peak_of(size):
    torch.manual_seed(0)
    wide = lambda inputs: nn.Sequential(nn.Linear(inputs, 256), nn.Tanh(), nn.Linear(256, 4))  # noqa: E731
    model = make(nn.Identity)
    model.query, model.document = wide(6).double(), wide(5).double()
    saved = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
        Accumulator(model, adam(model)).update_coupled(data(128), encode_pair, info_nce, micro_batch_size=size)
    return saved.peak


def test_memory_is_that_of_one_micro_batch():
    assert peak_of(8) < 0.5 * peak_of(128)


def test_an_exception_in_the_loss_leaves_nothing():
    model = make()
    accumulator = Accumulator(model, adam(model))
    before = copy.deepcopy(model.state_dict())

    def failing(model, z, batch):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        accumulator.update_coupled(data(), encode_pair, failing, micro_batch_size=4)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert accumulator.num_updates == 0


@pytest.mark.parametrize(
    ("encode", "size", "message"),
    [
        (lambda m, b: None, 4, "encode returned no floating-point tensor but a NoneType"),
        (lambda m, b: m.temperature * 1, 4, "encode.* has no leading dimension of samples"),
        (encode_pair, 0, "micro_batch_size=0 must be a whole number"),
        (encode_pair, {"query": 1}, "micro_batch_size is a mapping, so encode must be one too"),
        ({"query": encode_pair}, 4, "the batch must be a mapping that has a part for each, not tuple"),
    ],
)
def test_mistakes_are_named(encode, size, message):
    model = make()
    accumulator = Accumulator(model, adam(model))
    with pytest.raises(UserError, match=message):
        accumulator.update_coupled(data(), encode, info_nce, micro_batch_size=size)


def test_dropping_micro_batches_is_refused():
    model = make()
    accumulator = Accumulator(model, adam(model), non_finite="drop-micro-batch")
    with pytest.raises(UserError, match="drop-micro-batch' cannot hold for a coupled loss"):
        accumulator.update_coupled(data(), encode_pair, info_nce, micro_batch_size=4)
