"""Spectral normalisation: every layer divided by its largest singular value.

Chapter: course/02_wasserstein.ipynb.  Dimension key: O outputs, I inputs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from companion.checks import check_count, check_finite, typed
from companion.training.precision import without_autocast

__all__ = ["SpectralNorm", "spectral_normalise_"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


class SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, which power iteration follows.

        u ← W v / ‖W v‖,    v ← Wᵀ u / ‖Wᵀ u‖,    σ = uᵀ W v,    W̄ = W / σ

    Source: Miyato et al. 2018, arXiv:1802.05957, §2.1 and Algorithm 1. Differences: the first
    vector is the best of 15 iterations at the start, and u and v do not move in ``eval()`` mode.

    Args:
        weight: The weight as it is now; all axes but one are flattened to make W a matrix.
        outputs_axis: The axis that becomes the rows of W.
        iterations: Power iterations for each forward pass in ``train()`` mode.
        generator: Source of the first v.
    """

    @typed
    def __init__(
        self,
        weight: Tensor,
        *,
        outputs_axis: int = 0,
        iterations: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("iterations", iterations)
        check_finite("weight", weight)
        if weight.ndim < 2 or not -weight.ndim <= outputs_axis < weight.ndim:
            raise ValueError(
                "weight: expected two axes or more, outputs_axis among them, got shape "
                f"{tuple(weight.shape)} and axis {outputs_axis}"
            )
        self.outputs_axis = outputs_axis
        self.iterations = iterations
        w_OI = self._matrix(weight.detach())
        self.register_buffer("u_O", w_OI.new_empty(w_OI.shape[0]))
        self.register_buffer("v_I", _normalised(_normal_like(w_OI[0], generator)))
        self._iterate(w_OI, 15)

    def _matrix(self, weight: Tensor) -> Float[Tensor, "O I"]:
        return weight.movedim(self.outputs_axis, 0).flatten(1)

    @torch.no_grad()
    def _iterate(self, w_OI: Float[Tensor, "O I"], times: int) -> None:
        for _ in range(times):
            self.u_O.copy_(_normalised(w_OI @ self.v_I))
            self.v_I.copy_(_normalised(w_OI.T @ self.u_O))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its spectral norm; the gradient takes u and v as constants.

        Autocast is off in here: the power iteration would stop at the error of 16 bits, and the
        slope be bounded no better.
        """
        w_OI = self._matrix(weight)
        with without_autocast(weight):
            if self.training:
                self._iterate(w_OI, self.iterations)
            # Clones: the critic runs twice before one backward pass, and u, v change in between.
            sigma = torch.vdot(self.u_O.clone(), w_OI @ self.v_I.clone())
            return weight / sigma


@typed
def spectral_normalise_(
    module: nn.Module, *, iterations: int = 1, generator: torch.Generator | None = None
) -> None:
    """Give every linear and convolutional layer the spectral norm 1, in place.

    A perceptron of such layers with ReLU between them is 1-Lipschitz, up to the error of the power
    iteration. For a convolution the flattened kernel is normalised, as in the paper; that is not
    the norm of the convolution as a linear map. Weights are trained as
    ``layer.parametrizations.weight.original``.

    Source: Miyato et al. 2018, arXiv:1802.05957, §2.

    Args:
        module: The critic.
        iterations: Power iterations for each forward pass in ``train()`` mode.
        generator: Source of the first vectors.

    Raises:
        ValueError: If ``iterations`` is less than 1, or the module holds no such layer.
        RuntimeError: If a layer is normalised already.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> _ = nn.init.constant_(layer.weight, 7.0)
        >>> spectral_normalise_(layer)
        >>> round(torch.linalg.matrix_norm(layer.weight, ord=2).item(), 3)
        1.0
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    if not layers:
        raise ValueError("expected a module with linear or convolutional layers, got none")
    if any(parametrize.is_parametrized(layer, "weight") for layer in layers):
        raise RuntimeError("expected plain weights, got a layer that is already parametrized")
    for layer in layers:
        norm = SpectralNorm(
            layer.weight,
            outputs_axis=1 if isinstance(layer, _TRANSPOSED) else 0,
            iterations=iterations,
            generator=generator,
        )
        parametrize.register_parametrization(layer, "weight", norm)


def _normal_like(vector: Tensor, generator: torch.Generator | None) -> Tensor:
    device = vector.device if generator is None else generator.device
    return torch.randn(vector.shape, generator=generator, device=device).to(vector)


def _normalised(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector).clamp_min(1e-12)
