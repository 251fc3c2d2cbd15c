"""Optimal transport and Wasserstein GANs. Chapter: course/02_wasserstein.ipynb.

Read ``one_dimensional.py`` first. Exact and smoothed transport: ``linear_programs.py``,
``basic_plan.py``, ``exact.py``, ``entropic.py``, ``implicit.py``, ``divergence.py``. The critic
and the loop: ``lipschitz.py``, ``spectral.py``, ``updates.py``, ``training.py``; ``train.py`` is
the recipe.
"""

from companion.gan.samples import gaussian_ring as ring_of_gaussians
from companion.gan.samples import ring_centres
from companion.wasserstein.divergence import sinkhorn_divergence
from companion.wasserstein.entropic import log_sinkhorn, sinkhorn, soft_c_transform
from companion.wasserstein.exact import exact_transport
from companion.wasserstein.linear_programs import (
    c_transform,
    equality_matrix,
    solve_dual,
    solve_primal,
)
from companion.wasserstein.lipschitz import (
    clip_weights_,
    gradient_norms,
    gradient_penalty,
    lipschitz_estimate,
)
from companion.wasserstein.networks import Critic, Generator
from companion.wasserstein.one_dimensional import sliced_wasserstein, wasserstein_1d
from companion.wasserstein.problem import Transport
from companion.wasserstein.spectral import SpectralNorm, spectral_normalise_
from companion.wasserstein.training import (
    CriticHistory,
    WGANHistory,
    WGANStep,
    train_critic,
    train_wgan,
)
from companion.wasserstein.updates import (
    critic_loss,
    critic_step,
    critic_steps_at,
    generator_loss,
    generator_step,
    published_optimizer,
)

__all__ = [
    "Critic",
    "CriticHistory",
    "Generator",
    "SpectralNorm",
    "Transport",
    "WGANHistory",
    "WGANStep",
    "c_transform",
    "clip_weights_",
    "critic_loss",
    "critic_step",
    "critic_steps_at",
    "equality_matrix",
    "exact_transport",
    "generator_loss",
    "generator_step",
    "gradient_norms",
    "gradient_penalty",
    "lipschitz_estimate",
    "log_sinkhorn",
    "published_optimizer",
    "ring_centres",
    "ring_of_gaussians",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "soft_c_transform",
    "solve_dual",
    "solve_primal",
    "spectral_normalise_",
    "train_critic",
    "train_wgan",
    "wasserstein_1d",
]
