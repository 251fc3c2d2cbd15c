"""Training a VQ-VAE.

Chapter: course/03_vqvae.ipynb.  Dimension key: B batch, N images, S steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from companion.checks import check_count, check_number, typed
from companion.gan.batches import draw_indices
from companion.training import Stateful
from companion.training.precision import PrecisionPolicy
from companion.vqvae.codebook_use import perplexity
from companion.vqvae.model import VQVAE

__all__ = ["VQVAEHistory", "VQVAEStep", "train_vqvae"]

LARGEST_RATE = 1e30  # far above any use, and still a float32


class VQVAEHistory(NamedTuple):
    """What ``train_vqvae`` saw at each of its S steps."""

    loss: Float[Tensor, " S"]
    perplexity: Float[Tensor, " S"]  # of the batch's codes, over all levels together
    evaluations: dict[int, object]  # steps done → what ``evaluate`` returned


class VQVAEStep:
    """One step of Adam on a batch; ``state`` names all that a checkpoint must keep.

    The arguments are those of ``train_vqvae``.
    """

    @typed
    def __init__(
        self,
        model: VQVAE,
        images: Float[Tensor, "N C H W"],
        *,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        generator: torch.Generator | None = None,
        precision: PrecisionPolicy | None = None,
    ) -> None:
        check_count("batch_size", batch_size)
        check_number("learning_rate", learning_rate, least=0, most=LARGEST_RATE)
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(f"images: expected (N, C, H, W), N ≥ 1, got {tuple(images.shape)}")
        self.model, self.images = model, images
        self.batch_size, self.generator = batch_size, generator
        self.precision = precision or PrecisionPolicy("fp32", images.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def __call__(self, step: int) -> dict[str, Float[Tensor, ""]]:
        """Loss and perplexity of the batch, from before the update; every ``step`` is alike."""
        self.model.train()
        index_B = draw_indices(
            len(self.images), self.batch_size, device=self.images.device, generator=self.generator
        )
        with self.precision.autocast():
            _, indices, loss = self.model(self.images[index_B])
        self.optimizer.zero_grad()
        self.precision.backward(loss)
        self.precision.step(self.optimizer)
        self.precision.update()
        return {
            "loss": loss.detach(),
            "perplexity": perplexity(indices, self.model.quantizer.num_codes),
        }

    @property
    def state(self) -> dict[str, Stateful]:
        """Name → object whose ``state_dict`` the next step depends on."""
        return {"model": self.model, "optimizer": self.optimizer, **self.precision.state}


@typed
def train_vqvae(
    model: VQVAE,
    images: Float[Tensor, "N C H W"],
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    generator: torch.Generator | None = None,
    evaluate: Callable[[], object] | None = None,
    evaluate_every: int = 100,
    precision: PrecisionPolicy | None = None,
) -> VQVAEHistory:
    """Train encoder, codebook and decoder together, in place.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §3.2; Adam as in §4.1.

    Args:
        model: On the images' device.
        images: To learn from.
        steps: S.
        batch_size: B, images in one step, drawn with replacement.
        learning_rate: Of Adam; a codebook that learns by moving averages has none.
        generator: Source of the batches.
        evaluate: Called before the first step, after every ``evaluate_every`` and at the end.
        evaluate_every: Steps between two calls.
        precision: Of the networks' arithmetic; None is float32.

    Returns:
        Loss and perplexity of every step, and what ``evaluate`` returned.

    Raises:
        ValueError: If a count or a rate is out of range, or there is no image.

    Example:
        >>> from companion.vqvae import VectorQuantizer
        >>> model = VQVAE(VectorQuantizer(4, 2), width=3, levels=1, residual_blocks=0)
        >>> train_vqvae(model, torch.rand(5, 1, 8, 8), steps=3).loss.shape
        torch.Size([3])
    """
    check_count("steps", steps, least=0)
    check_count("evaluate_every", evaluate_every)
    step_of = VQVAEStep(
        model,
        images,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=generator,
        precision=precision,
    )
    seen, evaluations = images.new_zeros(steps, 2), {}
    for step in range(steps):
        if evaluate is not None and step % evaluate_every == 0:
            evaluations[step] = evaluate()
        seen[step] = torch.stack(list(step_of(step).values()))
    if evaluate is not None:
        evaluations[steps] = evaluate()
    return VQVAEHistory(*seen.T, evaluations)
