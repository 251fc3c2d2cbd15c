"""A codebook that follows the vectors by moving averages: k-means, a batch at a time.

Chapter: course/03_vqvae.ipynb.
Dimension key: B vectors, K codes, D width of a code, M codes to replace.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from companion.checks import check_count, check_number, typed
from companion.vqvae.all_ranks import draw_vectors, sizes, sums_and_counts
from companion.vqvae.gradients import straight_through
from companion.vqvae.kmeans import kmeans
from companion.vqvae.nearest import nearest_code
from companion.vqvae.quantizer import Quantized, check_indices, check_vectors, mean_square

__all__ = ["EMAVectorQuantizer"]


class EMAVectorQuantizer(nn.Module):
    """The nearest code for every vector; in training mode each code follows its vectors.

        N ← γ N + (1 − γ) n,    m ← γ m + (1 − γ) Σ z,    e ← m / ((N + ε) / (ΣN + K ε) · ΣN)
        loss = β · mean (z − sg[e])²

    n counts a code's vectors in the batch and Σ z adds them; z_q, indices and loss come from the
    codes before that. N starts at 1 and m at e, so that a first batch moves the codes a little.
    ``eval()`` freezes all three: buffers ``cluster_size``, ``embed_avg`` and ``codebook``.

    If torch.distributed's default group has several ranks, n and Σ z are over all of them, also
    where one has no vector, and every rank gets the same bits: so every rank calls forward alike.
    Equal starts are the caller's: a wrapper that sends rank 0's buffers, as DDP does, or one seed.

    N and m stay in float32 (or float64, after ``.double()``) when the module is cast to 16 bits:
    (1 − γ) n = 0.01 added to 3 would be lost there. Vectors with NaN or infinity, as a step that a
    loss scaler skips may bring, change no code, and a batch of nothing else, or of nothing, leaves
    N and m as they are.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §A.1, Eq. 6–8; the smoothing by ε as in the
    authors' code; revival: Zeghidour et al. 2021, arXiv:2107.03312, §III-C. Difference: replaced
    codes are drawn without repeats while the batch has as many vectors.

    Args:
        num_codes: K.
        dim: D.
        beta: β, at least 0.
        decay: γ, in [0, 1].
        epsilon: ε, more than 0.
        revive_below: A code whose N is less is replaced, after the update, by a vector of the
            batch: e := z, N := revive_below, m := z · revive_below. None for never. On a GPU the
            host waits for the answer whether there is such a code.
        kmeans_start: Whether the first training batch gives the codes, by ``kmeans``: then N are
            its counts, at least 1, and m = e · N. Buffer ``started`` says whether this was done;
            on a GPU the host waits for it at every training step.
        through: What gives z_q its gradient: ``straight_through`` or ``rotate_through``.
        generator: Source of the initial codes and of all draws; in a group, rank 0's makes the
            draws for all. None is torch's default one.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> quantizer = EMAVectorQuantizer(2, 1, decay=0.5)
        >>> for name in ("codebook", "embed_avg"):
        ...     _ = quantizer.get_buffer(name).copy_(torch.tensor([[0.0], [3.0]]))
        >>> quantizer(torch.tensor([[1.0], [1.0], [5.0]])).indices.tolist()
        [0, 0, 1]
        >>> quantizer.cluster_size.tolist()  # ½ · 1 + ½ · n
        [1.5, 1.0]
        >>> quantizer.codebook.T  # (½ · 0 + ½ · 2) / 1.5 and (½ · 3 + ½ · 5) / 1
        tensor([[0.6667, 4.0000]])
    """

    codebook: Float[Tensor, "K D"]
    cluster_size: Float[Tensor, " K"]
    embed_avg: Float[Tensor, "K D"]
    started: Tensor

    @typed
    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        beta: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        revive_below: float | None = None,
        kmeans_start: bool = False,
        through: Callable[[Tensor, Tensor], Tensor] = straight_through,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("num_codes", num_codes)
        check_count("dim", dim)
        check_number("beta", beta, least=0)
        check_number("decay", decay, least=0, most=1)
        check_number("epsilon", epsilon, above=0)
        if revive_below is not None:
            check_number("revive_below", revive_below, above=0)
        self.num_codes, self.dim, self.beta, self.decay = num_codes, dim, beta, decay
        self.epsilon, self.revive_below, self.kmeans_start = epsilon, revive_below, kmeans_start
        self.through, self.generator = through, generator
        wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
        codes_KD = torch.empty(num_codes, dim, dtype=wide)
        codes_KD.uniform_(-1 / num_codes, 1 / num_codes, generator=generator)
        self.register_buffer("codebook", codes_KD)
        self.register_buffer("cluster_size", torch.ones(num_codes, dtype=wide))
        self.register_buffer("embed_avg", codes_KD.clone())
        self.register_buffer("started", torch.tensor(not kmeans_start))

    def forward(self, z: Float[Tensor, "*b D"]) -> Quantized:
        """Codes, indices and loss; without a vector the loss is 0."""
        check_vectors(z, self.dim)
        z_BD = z.detach().reshape(-1, self.dim).to(self.codebook.dtype)
        if self.training and self.kmeans_start and not self.started:
            self._start(z_BD)
        indices_B = nearest_code(z_BD, self.codebook)
        # A copy of the codes, which the update below does not reach.
        codes = F.embedding(indices_B, self.codebook).view(z.shape)
        loss = self.beta * mean_square(z, codes)
        z_q = self.through(z, codes.to(z.dtype))
        if self.training:
            self._update(z_BD, indices_B)
        return Quantized(z_q, indices_B.view(z.shape[:-1]), loss)

    def codes(self, indices: Int[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
        """The codes with these numbers, as they are now."""
        check_indices(indices)
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def _update(self, z_BD: Tensor, indices_B: Tensor) -> None:
        sums_KD, counts_K = sums_and_counts(z_BD, indices_B, self.num_codes)
        weight = (1 - self.decay) * (counts_K.sum() > 0).to(counts_K.dtype)
        # In place, so that whoever holds a buffer (a state_dict, DDP) sees the new values.
        self.cluster_size.lerp_(counts_K, weight)
        self.embed_avg.lerp_(sums_KD, weight)
        total = self.cluster_size.sum()
        share_K = (self.cluster_size + self.epsilon) / (total + self.num_codes * self.epsilon)
        torch.div(self.embed_avg, (share_K * total)[:, None], out=self.codebook)
        if self.revive_below is not None:
            self._revive(z_BD, self.revive_below)

    def _revive(self, z_BD: Tensor, size: float) -> None:
        dead_M = (self.cluster_size < size).nonzero()[:, 0]  # the same on every rank
        if len(dead_M) == 0:
            return
        vectors_MD = draw_vectors(z_BD, len(dead_M), self.generator)
        if len(vectors_MD) > 0:
            self.codebook[dead_M] = vectors_MD
            self.cluster_size[dead_M] = size
            self.embed_avg[dead_M] = vectors_MD * size

    @torch.no_grad()
    def _start(self, z_BD: Tensor) -> None:
        if sum(sizes(z_BD)) == 0:
            return  # the next batch may have a vector
        centres_KD, counts_K = kmeans(z_BD, self.num_codes, generator=self.generator)
        self.codebook.copy_(centres_KD)
        # At least 1, as at every other start: m / N of a code without a vector would be 0, not e.
        self.cluster_size.copy_(counts_K.clamp(min=1))
        self.embed_avg.copy_(centres_KD * self.cluster_size[:, None])
        self.started.fill_(True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What ``.to()`` and ``.half()`` call; buffers keep their dtype rather than 16 bits."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer.is_floating_point() and buffer.element_size() < 4:
                self._buffers[name] = before[name].to(buffer.device)
        return self
