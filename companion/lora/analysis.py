"""Which directions a low-rank update uses, and how far it stretches them.

    φ(A₁, A₂, i, j) = ‖U₁ᵢᵀ U₂ⱼ‖_F² / min(i, j)         amplification = ‖ΔW‖_F / ‖Uᵀ W V‖_F

Source: Hu et al. 2021, arXiv:2106.09685, §7.2 (eq. 4), §7.3 (Table 7) and appendix G. Everything is
computed in float64, on the device of the matrices.
Chapter: course/07_lora.ipynb.  Dimension key: I inputs, O outputs, R and S ranks.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, typed

__all__ = [
    "amplification",
    "projected_norm",
    "random_similarity",
    "rank_for_energy",
    "subspace_similarity",
    "subspace_similarity_grid",
    "svd_of_product",
]


@typed
def subspace_similarity(
    a1: Float[Tensor, "R I"], a2: Float[Tensor, "S I"], i: int, j: int
) -> float:
    """How much of one subspace lies in another: 0 if orthogonal, 1 if one holds the other.

        φ(A₁, A₂, i, j) = ‖U₁ᵢᵀ U₂ⱼ‖_F² / min(i, j)

    U₁ᵢ holds the i right-singular vectors of A₁ with the largest singular values. The numerator is
    the sum of the squared cosines of the principal angles: no choice of basis or sign changes it.

    Source: Hu et al. 2021, arXiv:2106.09685, §7.2, eq. 4. For a B factor, give its transpose.

    Args:
        a1, a2: The two A factors; the ranks may differ, the width I may not.
        i, j: Directions taken from each, from 1 to its numerical rank; beyond it a singular vector
            is arbitrary.

    Returns:
        φ in [0, 1]; two random subspaces have max(i, j) / I on average (``random_similarity``).

    Raises:
        TypeError: If a factor is not floating point.
        ValueError: If the widths differ, an entry is not finite, or i or j is out of range.

    Example:
        >>> e1, e2, e3 = torch.eye(3)
        >>> subspace_similarity(torch.stack([3 * e1, e2]), torch.stack([2 * e1, e3]), 2, 2)
        0.5
    """
    rows_1, rows_2 = _two_row_spaces(a1, a2)
    check_count("i", i, most=len(rows_1))
    check_count("j", j, most=len(rows_2))
    return _similarities(rows_1[:i], rows_2[:j])[-1, -1].item()


@typed
def subspace_similarity_grid(
    a1: Float[Tensor, "R I"], a2: Float[Tensor, "S I"]
) -> Float[Tensor, "R S"]:
    """φ(A₁, A₂, i, j) for every i and j, from two decompositions and two running sums.

    Args:
        a1, a2: As for ``subspace_similarity``.

    Returns:
        Float64; entry ``[i - 1, j - 1]`` is φ(A₁, A₂, i, j). The sides are the numerical ranks,
        which are R and S unless rows depend on one another.

    Raises:
        TypeError, ValueError: As ``subspace_similarity``; also for a factor of zeros.

    Example:
        >>> e1, e2, e3 = torch.eye(3)
        >>> subspace_similarity_grid(torch.stack([3 * e1, e2]), torch.stack([2 * e1, e3]))
        tensor([[1.0000, 1.0000],
                [1.0000, 0.5000]], dtype=torch.float64)
    """
    rows_1, rows_2 = _two_row_spaces(a1, a2)
    return _similarities(rows_1, rows_2)


@typed
def random_similarity(i: int, j: int, width: int) -> float:
    """Mean φ of two independent, uniformly random subspaces: what no relation looks like.

        E φ = max(i, j) / I,    as E‖U₁ᵢᵀ u‖² = i / I for a unit vector u, of which there are j

    Args:
        i, j: Dimensions of the subspaces, from 1 to ``width``.
        width: I, the dimension of the space.

    Raises:
        ValueError: If i or j is out of range.

    Example:
        >>> random_similarity(8, 64, 1024)
        0.0625
    """
    check_count("width", width)
    check_count("i", i, most=width)
    check_count("j", j, most=width)
    return max(i, j) / width


@typed
def amplification(weight: Float[Tensor, "O I"], delta: Float[Tensor, "O I"], rank: int) -> float:
    """How much larger an update is than what the weight already did in the update's directions.

        ‖ΔW‖_F / ‖U_rᵀ W V_r‖_F,    U_r and V_r from the SVD of ΔW

    Source: Hu et al. 2021, arXiv:2106.09685, §7.3: at r = 4, in layer 48 of GPT-3, ‖ΔW_q‖_F = 6.91
    over 0.32, quoted as 21.5.

    Args:
        weight: W, the frozen weight.
        delta: ΔW, dense; ``lora_delta`` makes it.
        rank: r, from 1 to the numerical rank of ΔW.

    Returns:
        The factor, dimensionless; infinity where W does nothing in these directions.

    Raises:
        TypeError: If a matrix is not floating point.
        ValueError: If the shapes differ, an entry is not finite, or ``rank`` is out of range.

    Example:
        >>> weight = torch.diag(torch.tensor([0.5, 7.0]))
        >>> amplification(weight, torch.diag(torch.tensor([3.0, 0.0])), rank=1)
        6.0
    """
    projected = projected_norm(weight, delta, rank)
    norm = torch.linalg.matrix_norm(delta.detach().double()).item()
    return norm / projected if projected > 0 else float("inf")


@typed
def projected_norm(
    weight: Float[Tensor, "O I"], basis_matrix: Float[Tensor, "O I"], rank: int
) -> float:
    """Size of a weight inside the top directions of another matrix of the same shape.

        ‖U_rᵀ W V_r‖_F,    U_r and V_r the first r singular vectors of the basis matrix

    Source: Hu et al. 2021, arXiv:2106.09685, Table 7, whose columns take as basis matrix ΔW, W
    itself and a random matrix: 0.32, 21.67 and 0.02 at r = 4.

    Args:
        weight: W.
        basis_matrix: The matrix whose singular vectors span the two subspaces.
        rank: r, from 1 to the numerical rank of the basis matrix.

    Raises:
        TypeError, ValueError: As ``amplification``.

    Example:
        >>> weight = torch.diag(torch.tensor([0.5, 7.0]))
        >>> projected_norm(weight, weight, rank=1)
        7.0
    """
    if weight.shape != basis_matrix.shape:
        raise ValueError(
            f"expected two matrices of one shape, got {tuple(weight.shape)} and "
            f"{tuple(basis_matrix.shape)}"
        )
    w_OI = _matrix("weight", weight)
    u_OR, _, vh_RI = _svd(_matrix("basis matrix", basis_matrix))
    check_count("rank", rank, most=len(vh_RI))
    return torch.linalg.matrix_norm(u_OR[:, :rank].T @ w_OI @ vh_RI[:rank].T).item()


@typed
def rank_for_energy(delta: Float[Tensor, "O I"], energy: float) -> int:
    """Smallest rank whose best approximation keeps a given part of the squared norm.

        min { r : Σ_{k≤r} σ_k² ≥ energy · Σ_k σ_k² }

    By Eckart–Young the rest, 1 − energy, is the squared relative error of that approximation.

    Args:
        delta: Any matrix, for instance a weight's change.
        energy: Part to keep, in (0, 1]. At 1, the numerical rank: a part below the rounding of a
            float64 sum is not seen.

    Returns:
        The rank; 0 for a matrix of zeros.

    Raises:
        TypeError: If the matrix is not floating point.
        ValueError: If ``energy`` is outside (0, 1], or an entry is not finite.

    Example:
        >>> [rank_for_energy(torch.diag(torch.tensor([4.0, 3.0, 0.0])), e) for e in (0.64, 0.65)]
        [1, 2]
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy: expected 0 < energy <= 1, got {energy}")
    singular_values = torch.linalg.svdvals(_matrix("delta", delta))
    largest = singular_values.amax().item()
    if largest == 0:
        return 0
    kept = (singular_values / largest).square().cumsum(0)  # scaled: a square may underflow
    return int((kept < energy * kept[-1]).sum()) + 1


@typed
def svd_of_product(
    b_OR: Float[Tensor, "O R"], a_RI: Float[Tensor, "R I"]
) -> tuple[Float[Tensor, "O K"], Float[Tensor, "K"], Float[Tensor, "K I"]]:
    """Singular value decomposition of B A, without ever forming B A.

        B = Q_B R_B,  Aᵀ = Q_A R_A,  R_B R_Aᵀ = U S Vᵀ   ⟹   B A = (Q_B U) S (Q_A V)ᵀ

    O((O + I) R²) operations, where a decomposition of the product costs O(O · I · min(O, I)).

    Args:
        b_OR, a_RI: The factors of a low-rank matrix.

    Returns:
        U, S and Vᵀ with K = min(O, R, I), as ``torch.linalg.svd(b_OR @ a_RI, full_matrices=False)``
        has them in its first K components; computed in float64, in the factors' dtype.

    Raises:
        TypeError: If a factor is not floating point.
        ValueError: If the shapes do not fit, or an entry is not finite.

    Example:
        >>> b_OR, a_RI = torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, 2.0, 0.0]])
        >>> svd_of_product(b_OR, a_RI)[1]
        tensor([10.])
    """
    b, a = _matrix("b_OR", b_OR), _matrix("a_RI", a_RI)
    if b.shape[1] != a.shape[0]:
        raise ValueError(
            f"expected shapes (O, R) and (R, I), got {tuple(b.shape)} and {tuple(a.shape)}"
        )
    dtype = torch.promote_types(b_OR.dtype, a_RI.dtype)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return (q_b @ u).to(dtype), s.to(dtype), (vh @ q_a.T).to(dtype)


def _two_row_spaces(a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    a1, a2 = _matrix("a1", a1), _matrix("a2", a2)
    if a1.shape[1] != a2.shape[1]:
        raise ValueError(
            f"expected factors of one width I, got shapes {tuple(a1.shape)} and {tuple(a2.shape)}"
        )
    return _svd(a1)[2], _svd(a2)[2]


def _similarities(
    rows_1: Float[Tensor, "R I"], rows_2: Float[Tensor, "S I"]
) -> Float[Tensor, "R S"]:
    """‖U₁ᵢᵀ U₂ⱼ‖_F² is a sum over the first i rows and j columns of squared inner products."""
    sums_RS = (rows_1 @ rows_2.T).square().cumsum(0).cumsum(1)
    i_R = torch.arange(1, len(rows_1) + 1, device=sums_RS.device)
    j_S = torch.arange(1, len(rows_2) + 1, device=sums_RS.device)
    return (sums_RS / torch.minimum(i_R[:, None], j_S)).clamp(max=1)  # rounding may pass 1


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and Vᵀ without the components that only rounding put there."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s.amax() * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    if rank == 0:
        raise ValueError("expected a matrix with a direction, got only zeros")
    return u[:, :rank], s[:rank], vh[:rank]


def _matrix(name: str, value: Tensor) -> Tensor:
    """The matrix in float64, after a look at its kind, shape and entries."""
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point matrix, got {value.dtype}")
    if value.ndim != 2 or value.numel() == 0:
        raise ValueError(f"{name}: expected a matrix with entries, got shape {tuple(value.shape)}")
    value = value.detach().double()
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite entries, got NaN or infinity")
    return value
