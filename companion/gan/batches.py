"""What a training step draws: which samples, and the noise behind the fakes.

Chapters: course/01_gan.ipynb, course/02_wasserstein.ipynb.
Dimension key: B batch, N samples, Z latents.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["draw_indices", "draw_noise"]


def draw_indices(
    n: int,
    batch_size: int | None,
    *,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " B"]:
    """Indices of a batch with replacement, or all in a new order if there is no batch size.

    Args:
        n: N, how many samples there are.
        batch_size: B; None draws each index once.
        device: Of the indices; they are drawn on the generator's.
        generator: Source of the randomness.

    Returns:
        int64 indices below ``n``.

    Raises:
        ValueError: If there is no sample.

    Example:
        >>> draw_indices(5, None, device=torch.device("cpu")).sort().values.tolist()
        [0, 1, 2, 3, 4]
    """
    if n == 0:
        raise ValueError("expected at least one sample, got none")
    where = device if generator is None else generator.device
    if batch_size is None:
        index_B = torch.randperm(n, generator=generator, device=where)
    else:
        index_B = torch.randint(n, (batch_size,), generator=generator, device=where)
    return index_B.to(device)


def draw_noise(
    batch_size: int,
    latent_features: int,
    *,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B Z"]:
    """Gaussian noise, N(0, I), in the dtype and on the device of ``like``.

    Args:
        batch_size: B.
        latent_features: Z.
        like: The data.
        generator: Source of the randomness.

    Example:
        >>> draw_noise(3, 2, like=torch.zeros(9, 5)).shape
        torch.Size([3, 2])
    """
    device = like.device if generator is None else generator.device
    noise_BZ = torch.randn(batch_size, latent_features, generator=generator, device=device)
    return noise_BZ.to(like)
