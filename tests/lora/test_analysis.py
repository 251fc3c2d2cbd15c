"""Subspaces and amplification: by hand, against projectors, and against random matrix theory."""

import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from companion.lora.analysis import (
    amplification,
    projected_norm,
    random_similarity,
    rank_for_energy,
    subspace_similarity,
    subspace_similarity_grid,
    svd_of_product,
)

DTYPES = [
    (torch.bfloat16, 2e-2, 2e-2),
    (torch.float16, 2e-3, 2e-3),
    (torch.float32, 2e-6, 2e-6),
    (torch.float64, 1e-12, 1e-12),
]


def matrix(rows, columns, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def orthogonal(size, *, seed=0):
    return torch.linalg.qr(matrix(size, size, seed=seed))[0]


def with_singular_values(rows, columns, values, *, seed=0):
    """U S Vᵀ of that shape, whose U and V are known."""
    u, v = orthogonal(rows, seed=seed), orthogonal(columns, seed=seed + 1)
    count = len(values)
    s = torch.tensor(values, dtype=torch.float64)
    return (u[:, :count] * s) @ v[:, :count].T, u, v


# Similarity of subspaces


def test_similarity_by_hand():
    e = torch.eye(5)
    one = torch.stack([3 * e[0], 2 * e[1], e[2]])
    other = torch.stack([5 * e[1], e[3]])
    # φ(1, 1): e₀ against e₁. φ(2, 1): e₁ lies in {e₀, e₁}. φ(3, 2): e₁ of {e₁, e₃} is shared.
    assert subspace_similarity(one, other, 1, 1) == 0
    assert subspace_similarity(one, other, 2, 1) == 1
    assert subspace_similarity(one, other, 2, 2) == 0.5
    assert subspace_similarity(one, other, 3, 2) == 0.5
    assert subspace_similarity(other, one, 1, 3) == 1
    angle = torch.tensor([[math.cos(0.3), math.sin(0.3), 0.0]], dtype=torch.float64)
    line = torch.tensor([[-2.0, 0.0, 0.0]])
    assert_close(subspace_similarity(angle, line, 1, 1), math.cos(0.3) ** 2)


def test_the_largest_directions_come_first_whatever_the_order_of_rows():
    e = torch.eye(5)
    small_first = torch.stack([1 * e[0], 9 * e[1]])
    assert subspace_similarity(small_first, e[1:2], 1, 1) == 1
    assert subspace_similarity(small_first, e[0:1], 1, 1) == 0


@pytest.mark.parametrize(("i", "j"), [(1, 1), (2, 5), (3, 4), (3, 1)])
def test_similarity_by_scipys_principal_angles(i, j, device):
    a1, a2 = matrix(3, 11, seed=1), matrix(5, 11, seed=2)
    bases = [scipy.linalg.svd(a.numpy())[2][:k].T for a, k in ((a1, i), (a2, j))]
    cosines = torch.cos(torch.from_numpy(scipy.linalg.subspace_angles(*bases)))
    expected = cosines.square().sum().item() / min(i, j)
    found = subspace_similarity(a1.to(device), a2.to(device), i, j)
    assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES)
def test_every_entry_of_the_grid(dtype, atol, rtol, device):
    a1, a2 = matrix(3, 11, seed=1), matrix(5, 11, seed=2)
    grid = subspace_similarity_grid(a1.to(device, dtype), a2.to(device, dtype))
    assert grid.shape == (3, 5)
    assert grid.dtype == torch.float64
    assert grid.device.type == device
    p1, p2 = (scipy.linalg.svd(a.numpy())[2] for a in (a1, a2))
    for i in range(1, 4):
        for j in range(1, 6):
            # trace(P₁ P₂) of the two projectors: another form of the numerator
            trace = ((p1[:i].T @ p1[:i]) * (p2[:j].T @ p2[:j])).sum()
            expected = trace / min(i, j)
            assert_close(grid[i - 1, j - 1].item(), expected, atol=3 * atol, rtol=rtol)
            if dtype == torch.float64:
                found = subspace_similarity(a1, a2, i, j)
                assert_close(found, expected, atol=1e-12, rtol=0)


@given(seed=st.integers(0, 2**31), i=st.integers(1, 4), j=st.integers(1, 6))
def test_similarity_is_in_0_1_symmetric_and_blind_to_rotation(seed, i, j):
    a1, a2 = matrix(4, 7, seed=seed), matrix(6, 7, seed=seed + 1)
    phi = subspace_similarity(a1, a2, i, j)
    assert 0 <= phi <= 1
    assert_close(subspace_similarity(a2, a1, j, i), phi, atol=1e-10, rtol=0)
    turned = orthogonal(4, seed=seed) @ a1  # other rows, the same right-singular vectors
    assert_close(subspace_similarity(turned, a2, i, j), phi, atol=1e-8, rtol=0)
    q = orthogonal(7, seed=seed + 2)  # both subspaces turned together
    assert_close(subspace_similarity(a1 @ q, a2 @ q, i, j), phi, atol=1e-8, rtol=0)


@given(seed=st.integers(0, 2**31), i=st.integers(1, 4), j=st.integers(1, 4))
def test_a_subspace_and_itself(seed, i, j):
    a = matrix(4, 7, seed=seed)
    assert_close(subspace_similarity(a, a, i, j), 1.0, atol=1e-10, rtol=0)
    assert subspace_similarity_grid(a, a).max() <= 1


def test_the_complement_of_random_directions_is_orthogonal():
    q = orthogonal(11)
    assert subspace_similarity_grid(q[:4], q[4:]).abs().max() < 1e-24


@pytest.mark.parametrize(("i", "j", "width"), [(2, 5, 13), (3, 3, 7), (7, 1, 11)])
def test_random_subspaces_have_the_mean_of_theory(i, j, width):
    trials = 1000
    samples = torch.tensor(
        [
            subspace_similarity(
                matrix(i, width, seed=2 * t), matrix(j, width, seed=2 * t + 1), i, j
            )
            for t in range(trials)
        ]
    )
    error = samples.std() / math.sqrt(trials)
    assert error < 0.01
    assert abs(samples.mean() - max(i, j) / width) < 4 * error
    assert random_similarity(i, j, width) == max(i, j) / width


def test_rows_that_depend_on_one_another_leave_fewer_directions():
    a = matrix(2, 11)
    doubled = torch.cat([a, a[:1] + a[1:]])
    assert subspace_similarity_grid(doubled, a).shape == (2, 2)
    with pytest.raises(ValueError, match=r"i must be in \[1, 2\], got 3"):
        subspace_similarity(doubled, a, 3, 1)


def test_what_similarity_refuses():
    a, b = matrix(3, 7), matrix(2, 7)
    with pytest.raises(ValueError, match=r"i must be in \[1, 3\], got 0"):
        subspace_similarity(a, b, 0, 1)
    with pytest.raises(ValueError, match=r"i must be in \[1, 3\], got 4"):
        subspace_similarity(a, b, 4, 1)
    with pytest.raises(ValueError, match=r"j must be in \[1, 2\], got 3"):
        subspace_similarity(a, b, 3, 3)
    with pytest.raises(ValueError, match=r"one width I, got shapes \(3, 7\) and \(7, 2\)"):
        subspace_similarity(a, b.T, 1, 1)
    with pytest.raises(ValueError, match=r"a2: expected a matrix with entries, got shape \(7,\)"):
        subspace_similarity_grid(a, b[0])
    with pytest.raises(ValueError, match=r"a1: expected a matrix with entries, got shape \(0, 7\)"):
        subspace_similarity_grid(a[:0], b)
    with pytest.raises(
        TypeError,
        match=r"a1: expected a tensor of floating-point numbers, got Tensor of torch\.int64",
    ):
        subspace_similarity(a.long(), b, 1, 1)
    with pytest.raises(ValueError, match="a2: expected finite entries, got NaN or infinity"):
        subspace_similarity(a, b * math.nan, 1, 1)
    with pytest.raises(ValueError, match="expected a matrix with a direction, got only zeros"):
        subspace_similarity_grid(a, torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"j must be in \[1, 7\], got 8"):
        random_similarity(3, 8, 7)
    with pytest.raises(ValueError, match=r"i must be in \[1, 7\], got 0"):
        random_similarity(0, 3, 7)


# Amplification


def test_amplification_by_hand():
    # ΔW points along (e₀, e₁) and (e₁, e₀); W there is 2 and 1, elsewhere 50.
    delta = torch.zeros(3, 5)
    delta[0, 1], delta[1, 0] = 12.0, 5.0
    weight = torch.full((3, 5), 50.0)
    weight[:2, :2] = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    assert_close(projected_norm(weight, delta, 1), 2.0)
    assert_close(amplification(weight, delta, 1), 13 / 2)
    assert_close(projected_norm(weight, delta, 2), math.sqrt(5))
    assert_close(amplification(weight, delta, 2), 13 / math.sqrt(5))


def test_the_published_figure_is_the_ratio_of_published_norms():
    # Table 7, r = 4: ‖ΔW‖ = 6.91 and ‖UᵀWV‖ = 0.32, both rounded, quoted as 21.5.
    delta, u, v = with_singular_values(11, 7, [6.0, 3.0, 1.5])
    delta *= 6.91 / delta.norm()
    inside = torch.zeros(11, 7, dtype=torch.float64)
    inside[:3, :3] = 0.32 * orthogonal(3, seed=5) / math.sqrt(3)
    inside[3:, 3:] = 40 * matrix(8, 4, seed=6)  # what W does elsewhere must not count
    weight = u @ inside @ v.T
    assert_close(projected_norm(weight, delta, 3), 0.32)
    factor = amplification(weight, delta, 3)
    assert_close(factor, 6.91 / 0.32)
    assert 6.905 / 0.325 < 21.5 < 6.915 / 0.315


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_three_columns_of_table_7(rank, device):
    weight, other = matrix(7, 5, seed=1), matrix(7, 5, seed=2)
    # W in its own directions: the root of its first squared singular values.
    s = torch.linalg.svdvals(weight)
    on_device = projected_norm(weight.to(device), weight.to(device), rank)
    assert_close(on_device, s[:rank].norm().item())
    # In another matrix's: ‖P_U W P_V‖ with the projectors from a Gram matrix's eigenvectors.
    v = torch.linalg.eigh(other.T @ other)[1].flip(1)[:, :rank]
    u = torch.linalg.eigh(other @ other.T)[1].flip(1)[:, :rank]
    expected = ((u @ u.T) @ weight @ (v @ v.T)).norm().item()
    assert_close(projected_norm(weight, other, rank), expected)
    assert expected < on_device


@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10), rank=st.integers(1, 3))
def test_amplification_of_a_multiple(seed, scale, rank):
    weight = matrix(5, 3, seed=seed)
    s = torch.linalg.svdvals(weight)
    # ΔW = c W: the factor is c · ‖W‖ / ‖W's first r directions‖, so c at full rank.
    expected = scale * (s.norm() / s[:rank].norm()).item()
    assert_close(amplification(weight, -scale * weight, rank), expected)


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES)
def test_amplification_in_each_dtype(dtype, atol, rtol):
    delta, u, v = with_singular_values(7, 5, [4.0, 2.0], seed=1)
    weight = matrix(7, 5, seed=3)
    expected = math.sqrt(20) / (u[:, :2].T @ weight @ v[:, :2]).norm().item()
    found = amplification(weight.to(dtype), delta.to(dtype), 2)
    assert_close(found, expected, atol=atol, rtol=10 * rtol)


def test_amplification_without_bound_and_what_is_refused():
    weight, delta = torch.zeros(2, 3), torch.zeros(2, 3)
    weight[0, 0] = delta[1, 1] = 1.0
    assert amplification(weight, delta, 1) == math.inf
    with pytest.raises(ValueError, match=r"rank must be in \[1, 1\], got 2"):
        amplification(weight, delta, 2)
    with pytest.raises(ValueError, match=r"rank must be in \[1, 1\], got 0"):
        amplification(weight, delta, 0)
    with pytest.raises(ValueError, match=r"two matrices of one shape, got \(2, 3\) and \(3, 2\)"):
        amplification(weight, delta.T, 1)
    with pytest.raises(ValueError, match="expected a matrix with a direction, got only zeros"):
        amplification(weight, torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="weight: expected finite entries"):
        projected_norm(weight + math.inf, delta, 1)
    with pytest.raises(
        TypeError, match=r"basis_matrix: expected a tensor of floating-point numbers"
    ):
        projected_norm(weight, delta.int(), 1)


def test_parameters_with_gradients_are_welcome():
    a = torch.nn.Parameter(matrix(3, 7, dtype=torch.float32))
    assert subspace_similarity(a, a, 1, 1) == pytest.approx(1)
    assert not subspace_similarity_grid(a, a).requires_grad
    assert amplification(a, a, 3) == pytest.approx(1)
    assert rank_for_energy(a, 1.0) == 3


# Energy


def test_rank_for_energy_by_hand(device):
    delta = with_singular_values(7, 5, [4.0, 2.0, 2.0, 1.0])[0].to(device)  # squares 16 4 4 1
    expected = {0.01: 1, 0.63: 1, 0.65: 2, 0.79: 2, 0.81: 3, 0.95: 3, 0.97: 4, 1.0: 4}
    assert {e: rank_for_energy(delta, e) for e in expected} == expected
    assert rank_for_energy(torch.diag(torch.tensor([3.0, 4.0])), 16 / 25) == 1
    assert rank_for_energy(torch.diag(torch.tensor([3.0, 4.0])), 16.01 / 25) == 2


def test_rank_for_energy_of_zeros_and_of_tiny_numbers():
    assert rank_for_energy(torch.zeros(3, 5), 1.0) == 0
    assert rank_for_energy(1e-200 * torch.diag(torch.tensor([2.0, 1.0]).double()), 0.9) == 2
    assert rank_for_energy(1e200 * torch.diag(torch.tensor([2.0, 1.0]).double()), 0.7) == 1


@given(seed=st.integers(0, 2**31), energy=st.floats(0.01, 0.99))
def test_the_rank_is_the_first_that_suffices(seed, energy):
    delta = matrix(6, 4, seed=seed)
    rank = rank_for_energy(delta, energy)
    u, s, vh = scipy.linalg.svd(delta.numpy(), full_matrices=False)

    def kept(r):
        return 1 - (((u[:, :r] * s[:r]) @ vh[:r] - delta.numpy()) ** 2).sum() / (s**2).sum()

    assert kept(rank) >= energy - 1e-12
    assert kept(rank - 1) < energy + 1e-12


def test_what_rank_for_energy_refuses():
    for energy in (0.0, -1.0, 1.01, math.nan):
        with pytest.raises(ValueError, match=f"energy: expected 0 < energy <= 1, got {energy}"):
            rank_for_energy(torch.eye(3), energy)
    with pytest.raises(ValueError, match="delta: expected finite entries"):
        rank_for_energy(torch.full((2, 3), math.nan), 0.5)
    with pytest.raises(TypeError, match="delta: expected a tensor of floating-point numbers"):
        rank_for_energy(torch.ones(2, 3, dtype=torch.int32), 0.5)


# The decomposition of a product


@pytest.mark.parametrize(("dtype", "atol", "rtol"), DTYPES)
@pytest.mark.parametrize(("outputs", "rank", "inputs"), [(11, 3, 7), (5, 1, 13), (3, 7, 11)])
def test_svd_of_product_is_that_of_the_dense_product(
    outputs, rank, inputs, dtype, atol, rtol, device
):
    b, a = matrix(outputs, rank, seed=1), matrix(rank, inputs, seed=2)
    u, s, vh = svd_of_product(b.to(device, dtype), a.to(device, dtype))
    count = min(outputs, rank, inputs)
    assert [t.shape for t in (u, s, vh)] == [(outputs, count), (count,), (count, inputs)]
    assert all(t.dtype == dtype and t.device.type == device for t in (u, s, vh))
    u, s, vh = (t.cpu().double() for t in (u, s, vh))
    expected = torch.linalg.svdvals(b @ a)
    scale = expected[0].item()
    assert_close(s, expected[:count], atol=scale * atol, rtol=rtol)
    assert_close((u * s) @ vh, b @ a, atol=5 * scale * atol, rtol=rtol)
    assert_close(u.T @ u, torch.eye(count, dtype=torch.float64), atol=5 * atol, rtol=0)
    assert_close(vh @ vh.T, torch.eye(count, dtype=torch.float64), atol=5 * atol, rtol=0)
    assert (s.diff() <= 0).all()


def test_what_svd_of_product_refuses():
    with pytest.raises(ValueError, match=r"\(O, R\) and \(R, I\), got \(5, 3\) and \(2, 7\)"):
        svd_of_product(torch.ones(5, 3), torch.ones(2, 7))
    with pytest.raises(ValueError, match="a_RI: expected finite entries"):
        svd_of_product(torch.ones(5, 3), torch.full((3, 7), math.inf))
    with pytest.raises(TypeError, match="b_OR: expected a tensor of floating-point numbers"):
        svd_of_product(torch.ones(5, 3).long(), torch.ones(3, 7))
