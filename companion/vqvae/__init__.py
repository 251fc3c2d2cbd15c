"""Codebooks: vector quantisation inside an autoencoder. Chapter: course/03_vqvae.ipynb.

Read ``nearest.py`` and ``gradients.py`` first: the choice, and how a gradient passes it. The
codebooks: ``quantizer.py`` (learns by gradient), ``ema.py`` (by moving averages; it starts by
``kmeans.py`` and adds over ``all_ranks.py``), ``finite_scalar.py`` (a fixed grid) and
``residual.py`` (a sum of codes); ``codebook_use.py`` says how much of one is in use. The whole
model: ``networks.py``, ``model.py``, ``training.py``; ``train.py`` is the recipe.
``triton/`` holds the GPU's kernel for the nearest code.
"""

from companion.vqvae.codebook_use import perplexity, usage
from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.finite_scalar import FiniteScalarQuantizer
from companion.vqvae.gradients import rotate_through, straight_through
from companion.vqvae.model import VQVAE, VQVAEOutput
from companion.vqvae.nearest import nearest_code, squared_distances
from companion.vqvae.networks import Decoder, Encoder
from companion.vqvae.quantizer import Quantized, VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer
from companion.vqvae.training import VQVAEHistory, VQVAEStep, train_vqvae

__all__ = [
    "VQVAE",
    "Decoder",
    "EMAVectorQuantizer",
    "Encoder",
    "FiniteScalarQuantizer",
    "Quantized",
    "ResidualQuantizer",
    "VQVAEHistory",
    "VQVAEOutput",
    "VQVAEStep",
    "VectorQuantizer",
    "nearest_code",
    "perplexity",
    "rotate_through",
    "squared_distances",
    "straight_through",
    "train_vqvae",
    "usage",
]
