"""The full-size run: a WGAN on the ring of Gaussians or on the digits, resumable.

    python -m companion.wasserstein.train --data digits --device cuda

Stop it at any time; the same command carries on from its last checkpoint, bit for bit.
Defaults are the toy settings of Gulrajani et al. 2017, arXiv:1704.00028 (width 512, three hidden
layers, batch 256, 100 000 steps; λ = 0.1 for the ring, 10 for the digits).
Chapter: course/02_wasserstein.ipynb.
"""

import argparse
import math
from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from companion.data import digits
from companion.gan.pictures import save_picture
from companion.gan.samples import gaussian_ring
from companion.training import fit
from companion.training.arguments import at_least, between, recipe_arguments
from companion.training.precision import Precision, PrecisionPolicy
from companion.wasserstein.exact import exact_transport
from companion.wasserstein.networks import Critic, Generator
from companion.wasserstein.training import WGANStep
from companion.wasserstein.updates import Constraint

__all__ = ["main", "sample_distance"]

LATENT_FEATURES = {"ring": 2, "digits": 64}
PENALTY_WEIGHT = {"ring": 0.1, "digits": 10.0}
SHOWN = 256


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train as the command line asks; returns every step's measures."""
    options = _parser().parse_args(arguments)
    rng = torch.Generator(options.device).manual_seed(options.seed)
    data = _data(options.data, rng)
    latents, shape = LATENT_FEATURES[options.data], tuple(data.shape[1:])
    start = torch.Generator().manual_seed(options.seed)
    size = {"width": options.width, "depth": options.depth, "generator": start}
    generator = Generator(latents, shape, **size).to(options.device)
    critic = Critic(data[0].numel(), **size).to(options.device)
    step = WGANStep(
        generator,
        critic,
        data,
        constraint=options.constraint,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        penalty_weight=PENALTY_WEIGHT[options.data],
        generator_rng=rng,
        precision=PrecisionPolicy(options.precision, options.device),
    )
    history = fit(
        step,
        steps=options.steps,
        state=step.state,
        generators={"rng": rng},
        checkpoint=options.out / "checkpoint.safetensors",
        checkpoint_every=options.checkpoint_every,
        resume=not options.fresh,
    )
    noise = torch.randn(SHOWN, latents, generator=rng, device=options.device)
    with torch.no_grad():
        samples = generator(noise)
    print(f"W1 of {SHOWN} samples to {SHOWN} data: {sample_distance(samples, data[:SHOWN]):.3g}")
    save_picture(samples, options.out / "samples.png")
    return history


def sample_distance(x: Float[Tensor, "N *shape"], y: Float[Tensor, "M *shape"]) -> float:
    """Exact W₁ between two samples, each point with the same weight.

    Example:
        >>> sample_distance(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
        2.0
    """
    cost = torch.cdist(x.flatten(1), y.flatten(1)).double().cpu()
    a, b = (torch.full((n,), 1 / n, dtype=torch.float64) for n in cost.shape)
    return exact_transport(a, b, cost).cost.item()


def _data(name: str, rng: torch.Generator) -> Float[Tensor, "N *shape"]:
    if name == "ring":
        return gaussian_ring(100_000, generator=rng)
    images = digits().images
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))].to(
        rng.device
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion.wasserstein.train")
    parser.add_argument("--data", choices=("ring", "digits"), default="ring")
    parser.add_argument("--constraint", choices=get_args(Constraint), default="penalty")
    recipe_arguments(parser, steps=100_000, checkpoint_every=1000, out="wgan_run")
    parser.add_argument("--width", type=at_least(1), default=512)
    parser.add_argument("--depth", type=at_least(1), default=3)
    parser.add_argument("--batch-size", type=at_least(1), default=256)
    rate = "default: the constraint's paper's"
    parser.add_argument("--learning-rate", type=between(0, math.inf), help=rate)
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="of the arithmetic; weights and the gradient penalty are fp32, and fp16 scales the "
        "loss (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
