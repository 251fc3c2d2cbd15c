"""The full-size run: a GAN on the ring of Gaussians or on the digits, resumable.

    python -m companion.gan.train --data digits --conditional --device cuda

Stop it at any time; the same command carries on from its last checkpoint, bit for bit.
The samples shown and judged are the averaged generator's. The ring has perceptrons and R1, the
digits have DCGAN's networks; with --gamma their discriminator is without batch normalisation.
Chapter: course/01_gan.ipynb.
"""

import argparse
import math
from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from companion.data import digits
from companion.gan import losses
from companion.gan.coverage import mode_coverage
from companion.gan.images import ImageDiscriminator, ImageGenerator
from companion.gan.networks import Discriminator, Generator
from companion.gan.pictures import save_picture
from companion.gan.precision_recall import precision_recall
from companion.gan.samples import gaussian_ring, ring_centres
from companion.gan.training import GANStep
from companion.training import fit
from companion.training.arguments import at_least, between, recipe_arguments
from companion.training.precision import Precision, PrecisionPolicy
from companion.training.run_record import Settings

__all__ = ["main"]

LOSSES = {
    "minimax": losses.minimax_loss,
    "non-saturating": losses.non_saturating_loss,
    "least-squares": losses.least_squares_loss,
    "hinge": losses.hinge_loss,
}
LATENT_FEATURES = {"ring": 2, "digits": 64}
DEFAULTS = {
    "ring": {"width": 128, "gamma": 0.1, "learning_rate": 1e-3},
    "digits": {"width": 32, "gamma": 0.0, "learning_rate": 2e-4},
}
RING_STD = 0.02
JUDGED = 1000


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train as the command line asks; returns every step's measures."""
    options = _options(arguments)
    settings = Settings(_settings(options), options.out / "checkpoint.safetensors")
    rng = torch.Generator(options.device).manual_seed(options.seed)
    data, labels = _data(options.data, rng)
    generator, discriminator = _networks(options)
    step = GANStep(
        generator.to(options.device),
        discriminator.to(options.device),
        data,
        loss=LOSSES[options.loss],
        labels=labels if options.conditional else None,
        n_critic=options.n_critic,
        gamma=options.gamma,
        ema=options.ema,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        generator_rng=rng,
        precision=PrecisionPolicy(options.precision, options.device),
    )
    history = fit(
        step,
        steps=options.steps,
        state={**step.state, "settings": settings},
        generators={"rng": rng},
        checkpoint=settings.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=not options.fresh,
    )
    samples = _samples(step.averaged, rng, classes=10 if options.conditional else None)
    print(_judgement(samples, data))
    # Tanh's [−1, 1] becomes the picture's [0, 1].
    save_picture(samples if samples.ndim == 2 else (samples + 1) / 2, options.out / "samples.png")
    return history


def _data(name: str, rng: torch.Generator) -> tuple[Float[Tensor, "N *shape"], Int[Tensor, " N"]]:
    """Samples and their labels; the ring's are all of one class."""
    if name == "ring":
        points = gaussian_ring(100_000, std=RING_STD, generator=rng)
        return points, torch.zeros(len(points), dtype=torch.int64)
    images, labels = digits()
    return (2 * images - 1).to(rng.device), labels.to(rng.device)


def _networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    start = torch.Generator().manual_seed(options.seed)
    latents = LATENT_FEATURES[options.data]
    size = {"width": options.width, "generator": start}
    if options.data == "ring":
        size["depth"] = 2
        return Generator(latents, 2, **size), Discriminator(2, **size)
    size["num_classes"] = 10 if options.conditional else None
    discriminator = ImageDiscriminator(batch_norm=options.gamma == 0, **size)
    return ImageGenerator(latents, **size), discriminator


@torch.no_grad()
def _samples(
    generator: nn.Module, rng: torch.Generator, *, classes: int | None
) -> Float[Tensor, "N *shape"]:
    """Samples to judge; of the conditional game a row holds one of each class."""
    noise = torch.randn(JUDGED, generator.latent_features, generator=rng, device=rng.device)
    if classes is None:
        return generator(noise)
    return generator(noise, torch.arange(JUDGED, device=rng.device) % classes)


def _judgement(samples: Float[Tensor, "N *shape"], data: Float[Tensor, "M *shape"]) -> str:
    if samples.ndim == 2:
        centres = ring_centres().to(samples)
        covered, good = mode_coverage(samples, centres, radius=3 * RING_STD)
        return f"modes covered: {covered} of {len(centres)}, good samples: {good:.3g}"
    precision, recall = precision_recall(data, samples)
    return f"precision: {precision:.3g}, recall: {recall:.3g}, of {JUDGED} samples"


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """What the numbers of a run depend on, but for its length."""
    free = {"steps", "out", "checkpoint_every", "fresh", "device"}
    return {name: value for name, value in vars(options).items() if name not in free}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.conditional and options.data == "ring":
        parser.error("argument --conditional: expected --data digits, got ring, without labels")
    for name, value in DEFAULTS[options.data].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion.gan.train")
    add = parser.add_argument
    add("--data", choices=("ring", "digits"), default="ring")
    add("--loss", choices=tuple(LOSSES), default="non-saturating")
    add("--conditional", action="store_true", help="both players see the digit's label")
    recipe_arguments(parser, steps=20_000, checkpoint_every=1000, out="gan_run")
    add("--gamma", type=float, help=f"of the R1 penalty; 0 for none ({_default('gamma')})")
    add("--ema", type=float, default=0.999, help="decay of the averaged generator (%(default)s)")
    add("--width", type=at_least(1), help=f"of both networks ({_default('width')})")
    add("--n-critic", type=at_least(1), default=1, help="discriminator steps a step (%(default)s)")
    add("--batch-size", type=at_least(1), default=128)
    add("--learning-rate", type=between(0, math.inf), help=_default("learning_rate"))
    add(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="of the arithmetic; weights and the R1 penalty are fp32, and fp16 scales the loss "
        "(%(default)s)",
    )
    return parser


def _default(name: str) -> str:
    return ", ".join(f"{values[name]:g} for the {data}" for data, values in DEFAULTS.items())


if __name__ == "__main__":
    main()
