"""The codebook of moving averages, beside vector-quantize-pytorch and scikit-learn."""

import copy

import pytest
import torch
from sklearn.cluster import KMeans
from torch.testing import assert_close
from vector_quantize_pytorch import VectorQuantize

from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.kmeans import kmeans

K, D, B = 7, 3, 53
STATISTICS = "codebook", "cluster_size", "embed_avg"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def made(codebook=None, **options):
    quantizer = EMAVectorQuantizer(K, D, **options)
    codebook = draw(K, D, seed=1) if codebook is None else codebook
    quantizer.codebook.copy_(codebook)
    quantizer.embed_avg.copy_(codebook)
    return quantizer


def peer_of(quantizer, **options):
    peer = VectorQuantize(
        dim=D,
        codebook_size=K,
        decay=quantizer.decay,
        eps=quantizer.epsilon,
        commitment_weight=quantizer.beta,
        rotation_trick=False,
        **options,
    )
    peer._codebook.embed.copy_(quantizer.codebook[None])
    peer._codebook.embed_avg.copy_(quantizer.embed_avg[None])
    return peer


def statistics(quantizer):
    return {name: getattr(quantizer, name).clone() for name in STATISTICS}


def assert_same(quantizer, expected, **bounds):
    for name, value in expected.items():
        assert_close(getattr(quantizer, name), value, msg=lambda m, n=name: f"{n}: {m}", **bounds)


def assert_same_as_peer(quantizer, peer):
    """Sums of 53 numbers up to 4: 53 · 4 · 2⁻²⁴ · 2 for one step, and γ forgets the earlier."""
    theirs = {"codebook": peer._codebook.embed[0], "embed_avg": peer._codebook.embed_avg[0]}
    theirs |= {"cluster_size": peer._codebook.cluster_size[0]}
    assert_same(quantizer, theirs, rtol=1e-5, atol=2e-4)


# The update


def test_ten_steps_beside_the_peer():
    """From N = 1 on, with an ε that shows; z_q and loss are from before the update."""
    ours = made(decay=0.8, epsilon=0.3, beta=0.7)
    peer = peer_of(ours)
    for step in range(10):
        z = draw(B, D, seed=2 + step).requires_grad_()
        before = ours.codebook.clone()
        z_q, indices, loss = ours(z)
        their_z_q, their_indices, their_loss = peer(z[None])
        assert torch.equal(indices, their_indices[0])
        assert torch.equal(z_q, before[indices])
        assert_close(z_q, their_z_q[0], rtol=1e-5, atol=2e-4)
        assert_close(loss, their_loss, rtol=1e-4, atol=0)
        assert_close(loss, 0.7 * (z - before[indices]).square().mean())
        assert_same_as_peer(ours, peer)
    assert (ours.codebook - draw(K, D, seed=1)).abs().max() > 0.3


def test_gradients_reach_the_vectors_alone():
    quantizer, z = made(beta=0.7), draw(B, D).requires_grad_()
    before = quantizer.codebook.clone()
    _, indices, loss = quantizer(z)
    loss.backward()  # after the update of the buffers
    assert_close(z.grad, 0.7 * 2 * (z.detach() - before[indices]) / z.numel())
    assert list(quantizer.parameters()) == []
    z.grad = None
    quantizer(z).z_q.backward(upstream := draw(B, D, seed=2))
    assert torch.equal(z.grad, upstream)


def test_eval_freezes_and_gives_the_same_codes():
    quantizer = made(revive_below=5.0, kmeans_start=True).eval()
    before = statistics(quantizer)
    frozen = quantizer(draw(B, D))
    assert_same(quantizer, before, rtol=0, atol=0)
    learning = made()(draw(B, D))
    assert all(map(torch.equal, frozen, learning))


def test_the_fixed_point_is_that_of_lloyd():
    """The same batch again and again: S − S* shrinks by γ a step once no vector changes its code.

    Here none does from the first step on, so after 60 steps 2⁻⁶⁰ · 10 is left; ε adds ε K / n.
    """
    centres = 10 * torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)][:K])
    noise = torch.rand(20, K, D, generator=seeded(0), dtype=torch.float64) * 2 - 1
    z = (centres + noise).view(-1, D)
    quantizer = made(z[:K], decay=0.5, epsilon=1e-13).double()
    for _ in range(60):
        loss = quantizer(z).loss
    oracle = KMeans(K, init=z[:K].numpy(), n_init=1, tol=0).fit(z.numpy())
    assert_close(
        quantizer.codebook, torch.from_numpy(oracle.cluster_centers_), rtol=1e-12, atol=1e-11
    )
    assert loss.item() / 0.25 * z.numel() == pytest.approx(oracle.inertia_, rel=1e-10)


def test_buffers_stay_the_same_tensors():
    quantizer = made(kmeans_start=True, revive_below=0.99)
    held = dict(quantizer.state_dict())
    for step in range(3):
        quantizer(draw(5, D, seed=step))
        assert all(torch.equal(held[name], quantizer.get_buffer(name)) for name in held)
    assert held.keys() == {*STATISTICS, "started"}
    assert held["started"]


# What may go wrong with the vectors


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_vectors_without_a_length_change_no_code(bad):
    """As in a step that overflowed, which a loss scaler skips: its rest counts as usual."""
    quantizer, alone = made(revive_below=2.0), made(revive_below=2.0)
    z = draw(B, D).index_fill(0, torch.tensor([0, 19]), 0).contiguous()
    good = torch.ones(B, dtype=torch.bool).index_fill(0, torch.tensor([0, 19]), False)
    z[0], z[19, 1] = bad, bad
    torch.manual_seed(0)  # for the draws of revival
    indices = quantizer(z).indices
    assert 0 <= indices.min() <= indices.max() < K
    torch.manual_seed(0)
    alone(z[good])
    assert_same(quantizer, statistics(alone), rtol=1e-6, atol=1e-6)
    before = statistics(quantizer)
    quantizer(torch.full((4, D), bad))
    assert_same(quantizer, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_in_float32(dtype):
    """0.01 · n is lost in N = 3 of bfloat16; so it is 1 that N must leave, step by step."""
    quantizer, wide = made().to(dtype), made()
    z = draw(B, D).to(dtype)
    for _ in range(3):
        z_q, _, loss = quantizer(z)
        wide(z.float())
    assert (z_q.dtype, loss.dtype) == (dtype, torch.float32)
    assert quantizer.started.dtype == torch.bool
    assert_same(quantizer, statistics(wide), rtol=0, atol=0)
    assert made().double().codebook.dtype == torch.float64
    assert torch.equal(made().to(dtype).codebook, made().codebook)  # not rounded on the way


@pytest.mark.filterwarnings("ignore")  # dynamo warns of what it does itself
def test_inference_mode_copies_and_compilation():
    quantizer, expected = made(), made()
    expected(draw(B, D))
    with torch.inference_mode():
        quantizer(draw(B, D))
    assert_same(quantizer, statistics(expected), rtol=0, atol=0)
    quantizer = copy.deepcopy(made(generator=torch.Generator()))
    torch.compile(quantizer, backend="aot_eager", fullgraph=True)(draw(B, D))
    assert_same(quantizer, statistics(expected), rtol=1e-6, atol=1e-6)


# Revival


def dead_and_alive(**options):
    """Two codes with 30 vectors each, five far from all; a batch of 60 vectors around the two."""
    codebook = torch.full((K, D), 100.0) + torch.arange(K)[:, None]
    codebook[1], codebook[4] = 0.0, 5.0
    z = torch.cat([draw(30, D) * 0.1, 5 + draw(30, D, seed=1) * 0.1])
    return made(codebook, **options), z


def test_a_dead_code_becomes_a_vector_and_its_statistics_with_it():
    quantizer, z = dead_and_alive(decay=0.6, revive_below=0.7)
    plain, _ = dead_and_alive(decay=0.6)
    quantizer(z)
    plain(z)
    dead = torch.tensor([0, 2, 3, 5, 6])
    assert torch.equal(quantizer.cluster_size[dead], torch.full((5,), 0.7))
    codes = quantizer.codebook[dead]
    assert torch.equal(quantizer.embed_avg[dead], codes * 0.7)
    drawn = (codes[:, None] == z).all(-1).nonzero()[:, 1]
    assert len(drawn.unique()) == 5  # each a vector of the batch, and none twice
    for name in STATISTICS:
        assert torch.equal(getattr(quantizer, name)[[1, 4]], getattr(plain, name)[[1, 4]])


def test_more_dead_codes_than_vectors():
    """All are replaced, each vector as often as another; the peer does the same with one vector."""
    quantizer, z = dead_and_alive(decay=0.6, revive_below=0.7)
    quantizer(z[[0, 31]])
    assert sorted((quantizer.codebook[:, None] == z[[0, 31]]).all(-1).sum(0).tolist()) == [2, 3]
    quantizer, z = dead_and_alive(decay=0.6, revive_below=0.7)
    peer = peer_of(quantizer, threshold_ema_dead_code=0.7)
    same = z[:1].expand(9, D)
    quantizer(same)
    peer(same[None])
    assert_same_as_peer(quantizer, peer)


def test_a_code_at_the_bound_lives_and_draws_follow_the_generator():
    quantizer, z = dead_and_alive(decay=0.0, revive_below=30.0)
    quantizer(z)  # γ = 0: N is n, and 30 is not less than 30
    assert_close(quantizer.codebook[[1, 4]], torch.stack([z[:30].mean(0), z[30:].mean(0)]))
    codes = []
    for seed in (3, 3, 4):
        state = torch.get_rng_state()
        quantizer, z = dead_and_alive(decay=0.6, revive_below=0.7, generator=seeded(seed))
        quantizer(z)
        assert torch.equal(state, torch.get_rng_state())
        codes.append(quantizer.codebook)
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


# The start by k-means


def test_the_first_training_batch_gives_the_codes():
    z = draw(B, D).unflatten(0, (1, B))
    quantizer = made(kmeans_start=True, decay=1.0, epsilon=1e-9, generator=seeded(5))
    generator = seeded(5)
    torch.empty(K, D).uniform_(generator=generator)  # the initial codes
    centres, counts = kmeans(z[0], K, generator=generator)
    assert (counts > 0).all()
    assert_close(quantizer(z).z_q, centres[quantizer(z).indices])
    for _ in range(2):  # γ = 1: what the start gave stays, also with other vectors
        expected = {"codebook": centres, "cluster_size": counts}
        assert_same(quantizer, expected | {"embed_avg": centres * counts[:, None]})
        quantizer(draw(B, D, seed=9))
    restored = made(kmeans_start=True, epsilon=1e-9)
    restored.load_state_dict(quantizer.state_dict())
    restored.eval()(z)
    restored.train().decay = 1.0
    restored(z)
    assert_same(restored, statistics(quantizer), rtol=1e-5, atol=1e-5)


def test_fewer_vectors_than_codes_and_none_at_all():
    """A code that k-means gave no vector stays where it is, rather than at 0 / 0 or the origin."""
    quantizer = made(kmeans_start=True)
    for nothing in (torch.zeros(0, D), torch.full((4, D), torch.nan)):
        quantizer(nothing)
        assert not quantizer.started
    z = 5 + draw(3, D)
    quantizer(z)
    assert quantizer.started
    assert (quantizer.cluster_size > 0.9).all()
    gap = (quantizer.codebook[:, None] - z).abs().amax(-1)
    assert_close(gap.amin(1), torch.zeros(K), rtol=0, atol=1e-4)  # each code is a vector
    assert_close(gap.amin(0), torch.zeros(3), rtol=0, atol=1e-4)  # and each vector a code
