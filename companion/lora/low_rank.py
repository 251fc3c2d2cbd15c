"""The arithmetic of a low-rank update, plainly and fast.

    y + s · (x Aᵀ) Bᵀ

Chapter: course/07_lora.ipynb.  Dimension key: B rows of x (all its axes but the last), I inputs,
O outputs, R rank.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_number, check_tensor
from companion.training.precision import without_autocast

__all__ = ["add_low_rank", "add_low_rank_reference", "lora_delta"]

LARGEST_SCALE = torch.finfo(torch.float32).max


def lora_delta(
    a_RI: Float[Tensor, "R I"], b_OR: Float[Tensor, "O R"], *, scale: float
) -> Float[Tensor, "O I"]:
    """Dense weight update, of rank at most R.

        ΔW = s · B A

    Source: Hu et al. 2021, arXiv:2106.09685, §4.1, equation 3. Autocast is off in here: rounded
    factors would give another update than the one that was trained.

    Args:
        a_RI: A, which reads the inputs.
        b_OR: B, which writes the outputs.
        scale: s = alpha / R, or alpha / √R (dimensionless).

    Returns:
        ΔW in the dtype of the factors, with gradients to both.

    Example:
        >>> lora_delta(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), scale=3.0)
        tensor([[3., 6.],
                [0., 0.]])
    """
    _check_factors(a_RI, b_OR, scale)
    with without_autocast(b_OR):
        return scale * (b_OR @ a_RI)


def add_low_rank_reference(
    y: Float[Tensor, "*batch O"],
    x: Float[Tensor, "*batch I"],
    a_RI: Float[Tensor, "R I"],
    b_OR: Float[Tensor, "O R"],
    *,
    scale: float,
) -> Float[Tensor, "*batch O"]:
    """The equation as it stands: ``y + scale * (x @ A.T) @ B.T``.

    x Aᵀ comes first: R·(I+O) multiplications for each row, where (B A) first would need I·O.
    """
    _check_rows(y, x, a_RI, b_OR, scale)
    return y + scale * (x @ a_RI.T @ b_OR.T)


def add_low_rank(
    y: Float[Tensor, "*batch O"],
    x: Float[Tensor, "*batch I"],
    a_RI: Float[Tensor, "R I"],
    b_OR: Float[Tensor, "O R"],
    *,
    scale: float,
) -> Float[Tensor, "*batch O"]:
    """The same numbers, with fewer passes over the large tensors, also in the backward pass.

        y + s · (A xᵀ)ᵀ Bᵀ    in one matrix multiplication that adds to y and scales

    The reference writes x Aᵀ Bᵀ, s · x Aᵀ Bᵀ and the sum, and its backward pass s · ∂L/∂y as well:
    memory traffic, which is what a thin product costs. Here ``addmm`` scales and adds as it writes,
    and autograd scales small tensors alone. Both thin factors lie with their long axis contiguous,
    in the backward pass too: the products for ∂L/∂B are then up to six times faster on a CPU.
    These are ordinary operations, so double backward, ``torch.func`` and ``torch.compile`` work.

    Args:
        y: The base's output.
        x: The input, in the dtype of the factors.
        a_RI, b_OR: The factors.
        scale: s (dimensionless).

    Returns:
        The sum, in the wider dtype of y and the factors, or in autocast's where that is on.

    Example:
        >>> y, x = torch.zeros(2, 3, 5), torch.ones(2, 3, 7)
        >>> add_low_rank(y, x, torch.ones(1, 7), torch.ones(5, 1), scale=0.5)[0, 0]
        tensor([3.5000, 3.5000, 3.5000, 3.5000, 3.5000])
    """
    _check_rows(y, x, a_RI, b_OR, scale)
    low_RB = a_RI @ x.reshape(-1, x.shape[-1]).T
    y_BO = y.reshape(-1, y.shape[-1]).to(low_RB.dtype)
    return torch.addmm(y_BO, low_RB.T, b_OR.T.contiguous(), alpha=scale).reshape(y.shape)


def _check_factors(a_RI: Tensor, b_OR: Tensor, scale: float) -> None:
    check_tensor("a_RI", a_RI)
    check_tensor("b_OR", b_OR)
    check_number("scale", scale, most=LARGEST_SCALE)
    if not a_RI.ndim == b_OR.ndim == 2 or a_RI.shape[0] != b_OR.shape[1]:
        raise ValueError(
            "a_RI and b_OR: expected shapes (R, I) and (O, R), got "
            f"{tuple(a_RI.shape)} and {tuple(b_OR.shape)}"
        )


def _check_rows(y: Tensor, x: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> None:
    _check_factors(a_RI, b_OR, scale)
    check_tensor("y", y)
    check_tensor("x", x)
    inputs, outputs = a_RI.shape[1], b_OR.shape[0]
    if x.shape[-1:] != (inputs,) or y.shape != (*x.shape[:-1], outputs):
        raise ValueError(
            f"y and x: expected shapes (..., {outputs}) and (..., {inputs}) from the factors, got "
            f"{tuple(y.shape)} and {tuple(x.shape)}"
        )
