"""The gradient of a choice that is made with noise, to hold another gradient against.

Chapter: course/03_vqvae.ipynb.
Dimension key: N vectors, K codes, D width of a code, S draws of noise.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.checks import check_count, check_number, typed
from companion.vqvae.model import VQVAE
from companion.vqvae.nearest import nearest_code

__all__ = ["edge_distance", "loss_of_each_code", "relaxed_gradient"]


@typed
def relaxed_gradient(
    losses: Float[Tensor, " K"],
    z: Float[Tensor, " D"],
    codebook: Float[Tensor, "K D"],
    *,
    sigma: float,
    draws: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " D"]:
    """Gradient with respect to z of the mean loss of a choice that is made at z + σε.

        L(z) = E ℓ(q(z + σε)),    ∇L(z) = E [(ℓ(q(z + σε)) − ℓ(q(z))) ε] / σ,    ε ~ N(0, I)

    That is the derivative of the Gaussian density, not of the choice; subtracting ℓ(q(z)), which
    has mean 0 times ε, and drawing ε with −ε take noise out of the estimate.

    Source: Williams 1992, doi:10.1007/BF00992696, §4 (the Gaussian unit, with its baseline).

    Args:
        losses: ℓ of each code.
        z: Where.
        codebook: The codes.
        sigma: σ, more than 0.
        draws: S, of ε; as many −ε are added.
        generator: Source of ε.

    Example:
        >>> codes = torch.tensor([[-1.0], [1.0]])  # the edge is at 0
        >>> gradient = relaxed_gradient(
        ...     torch.tensor([0.0, 1.0]), torch.zeros(1), codes, sigma=0.5, draws=100_000,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> f"{gradient.item():.1f}"  # the normal density's height, 0.399 / 0.5
        '0.8'
    """
    check_number("sigma", sigma, above=0)
    check_count("draws", draws)
    own = nearest_code(z, codebook)
    if losses.shape != codebook.shape[:1] or z.shape != codebook.shape[1:]:
        got = f"{tuple(losses.shape)} and {tuple(z.shape)}"
        raise ValueError(f"losses, z: expected shapes (K,) and (D,) of the codebook, got {got}")
    noise = torch.randn(draws, len(z), generator=generator, device=z.device, dtype=z.dtype)
    noise_SD = torch.cat([noise, -noise])
    chosen_S = nearest_code(z + sigma * noise_SD, codebook)
    gain_S = losses[chosen_S] - losses[own]
    return (gain_S[:, None] * noise_SD).mean(0) / sigma


@typed
def edge_distance(z: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"]) -> Float[Tensor, " N"]:
    """How far each vector is from the nearest edge of its cell.

    The edge between codes a and b is the plane half way: z's distance to it is
    (‖z − b‖² − ‖z − a‖²) / (2‖a − b‖).

    Example:
        >>> edge_distance(torch.tensor([[0.5]]), torch.tensor([[0.0], [3.0], [9.0]]))
        tensor([1.])
    """
    own_N = nearest_code(z, codebook)
    if z.ndim != 2:
        raise ValueError(f"z: expected shape (N, {codebook.shape[1]}), got {tuple(z.shape)}")
    # By differences: a matrix product would find a code at some distance from itself.
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    squared_NK = torch.cdist(z, codebook, **exact).square()
    between_NK = torch.cdist(codebook[own_N], codebook, **exact)
    gap_NK = (squared_NK - squared_NK.gather(1, own_N[:, None])).clamp(min=0)
    distance_NK = gap_NK / (2 * between_NK)
    # A code that is the same as its own, itself first of all, makes no edge.
    return distance_NK.masked_fill(between_NK == 0, torch.inf).amin(1)


@torch.no_grad()
@typed
def loss_of_each_code(
    model: VQVAE,
    image: Float[Tensor, "1 C H W"],
    indices: Int[Tensor, "1 h w"],
    place: tuple[int, int],
) -> Float[Tensor, " K"]:
    """Squared error of the image, summed, for each code at one place; the others stay."""
    if indices.ndim != 3 or len(indices) != 1:
        raise ValueError(f"indices: expected shape (1, h, w), got {tuple(indices.shape)}")
    codebook = model.quantizer.codebook
    grid = model.quantizer.codes(indices).repeat(len(codebook), 1, 1, 1)
    grid[:, place[0], place[1]] = codebook
    images = model.decoder(grid.movedim(-1, 1))
    if image.shape != images[:1].shape:
        expected, got = tuple(images[:1].shape), tuple(image.shape)
        raise ValueError(f"image: expected shape {expected}, got {got}")
    return (images - image).square().flatten(1).sum(1)
