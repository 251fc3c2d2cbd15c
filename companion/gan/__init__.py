"""Generative adversarial networks. Chapter: course/01_gan.ipynb.

Read ``losses.py`` and ``divergence.py`` first: the game and what its best discriminator measures.
The players and their training: ``networks.py``, ``samples.py``, ``training.py`` (which draws by
``batches.py``), then ``r1.py`` and, for images, ``images.py``. How good the samples are:
``coverage.py``, ``precision_recall.py``, ``frechet.py``. ``train.py`` is the recipe, and
``pictures.py`` draws for it.
"""

from companion.gan.coverage import ModeCoverage, mode_coverage
from companion.gan.divergence import jensen_shannon, optimal_discriminator
from companion.gan.frechet import frechet_distance
from companion.gan.images import ImageDiscriminator, ImageGenerator
from companion.gan.losses import (
    GANLoss,
    hinge_loss,
    least_squares_loss,
    minimax_loss,
    non_saturating_loss,
)
from companion.gan.networks import Discriminator, Generator
from companion.gan.precision_recall import PrecisionRecall, precision_recall
from companion.gan.r1 import r1_penalty
from companion.gan.samples import gaussian_grid, gaussian_ring, grid_centres, ring_centres
from companion.gan.training import GANHistory, GANStep, train_gan

__all__ = [
    "Discriminator",
    "GANHistory",
    "GANLoss",
    "GANStep",
    "Generator",
    "ImageDiscriminator",
    "ImageGenerator",
    "ModeCoverage",
    "PrecisionRecall",
    "frechet_distance",
    "gaussian_grid",
    "gaussian_ring",
    "grid_centres",
    "hinge_loss",
    "jensen_shannon",
    "least_squares_loss",
    "minimax_loss",
    "mode_coverage",
    "non_saturating_loss",
    "optimal_discriminator",
    "precision_recall",
    "r1_penalty",
    "ring_centres",
    "train_gan",
]
