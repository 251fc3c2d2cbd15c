"""The full-size run: a VQ-VAE on the digits or on tiles of the photographs, resumable.

    python -m companion.vqvae.train --data photos --quantizer ema --codes 1024 --device cuda

Stop it at any time; the same command carries on from its last checkpoint, bit for bit.
One image in eight is held out; it says the error on them.
Chapter: course/03_vqvae.ipynb.
"""

import argparse
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from companion.data import digits, photo_tiles
from companion.training import fit
from companion.training.arguments import at_least, between, recipe_arguments
from companion.training.precision import Precision, PrecisionPolicy
from companion.training.run_record import Settings
from companion.vqvae.codebook_use import perplexity, usage
from companion.vqvae.ema import EMAVectorQuantizer
from companion.vqvae.finite_scalar import FiniteScalarQuantizer
from companion.vqvae.gradients import rotate_through, straight_through
from companion.vqvae.kmeans import kmeans
from companion.vqvae.model import VQVAE
from companion.vqvae.nearest import nearest_code
from companion.vqvae.quantizer import VectorQuantizer
from companion.vqvae.residual import ResidualQuantizer
from companion.vqvae.training import VQVAEStep

__all__ = ["main"]

GRADIENTS = {"straight": straight_through, "rotation": rotate_through}
LEVELS = {"digits": 1, "photos": 2}  # how often the sides halve
HELD_OUT = 8  # every eighth image
AVERAGES = "decay", "revive_below", "no_revival", "kmeans_start"
CODEBOOKS = "codes", "dim", "beta", "gradient", "residual_levels"
UNUSED = {
    "ema": ("fsq_levels",),
    "gradient": (*AVERAGES, "fsq_levels"),
    "fsq": (*AVERAGES, *CODEBOOKS),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train as the command line asks; returns every step's measures."""
    options = _parse(arguments)
    settings = Settings(_settings(options), options.out / "checkpoint.safetensors")
    start = torch.Generator().manual_seed(options.seed)
    train, held_out = _images(options.data, options.device)
    rng = torch.Generator().manual_seed(options.seed + 1)
    model = VQVAE(
        _quantizer(options, rng),
        channels=train.shape[1],
        width=options.width,
        levels=LEVELS[options.data],
        residual_blocks=options.residual_blocks,
        generator=start,
    ).to(options.device)
    step = VQVAEStep(
        model,
        train,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        generator=rng,
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
    print(_judgement(model.eval(), train, held_out))
    if options.residual_levels == 1:
        error = _by_patches(train, held_out, model.encoder.stride, model.quantizer.num_codes)
        print(f"k-means on patches, with as many bits and no network: {error:.5f}")
    with torch.no_grad():
        rows = {"image": held_out[:12], "reconstruction": model(held_out[:12]).reconstruction}
    _save_picture(rows, options.out / "reconstructions.png")
    return history


def _images(name: str, device: str) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "M C H W"]]:
    """Training and held-out images, shuffled alike in every run."""
    images = digits()[0] if name == "digits" else photo_tiles(32, shrink=2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images[order].to(device)
    held_out = torch.arange(len(images)) % HELD_OUT == 0
    return images[~held_out], images[held_out]


def _quantizer(options: argparse.Namespace, rng: torch.Generator) -> nn.Module:
    if options.quantizer == "fsq":
        return FiniteScalarQuantizer(options.fsq_levels)
    build, of = VectorQuantizer, {"beta": options.beta, "generator": rng}
    of["through"] = GRADIENTS[options.gradient]
    if options.quantizer == "ema":
        build = EMAVectorQuantizer
        of |= {"decay": options.decay, "kmeans_start": options.kmeans_start}
        of["revive_below"] = None if options.no_revival else options.revive_below
    levels = [build(options.codes, options.dim, **of) for _ in range(options.residual_levels)]
    return levels[0] if len(levels) == 1 else ResidualQuantizer(levels)


@torch.no_grad()
def _judgement(model: VQVAE, train: Tensor, held_out: Tensor) -> str:
    indices, codes = model.encode(train), model.quantizer.num_codes
    error = (model(held_out).reconstruction.float() - held_out).square().mean()
    bits = indices[0].numel() * math.log2(codes)
    return (
        f"{bits:.0f} bits an image, mean squared error on {len(held_out)} held-out images "
        f"{error:.5f}; codes in use {usage(indices, codes):.3g} of {codes}, "
        f"perplexity {perplexity(indices, codes):.3g}"
    )


def _by_patches(train: Tensor, held_out: Tensor, side: int, num_codes: int) -> float:
    """The simplest rival's error on held-out images: a codebook of side×side pixels."""
    learn, seen = (
        F.unfold(images, side, stride=side).movedim(1, -1) for images in (train, held_out)
    )
    start = torch.Generator().manual_seed(0)
    centres = kmeans(learn.flatten(0, 1), num_codes, generator=start).centres
    return (centres[nearest_code(seen, centres)] - seen).square().mean().item()


def _save_picture(rows: dict[str, Float[Tensor, "B C H W"]], file: Path) -> None:
    """Draw images over reconstructions; a machine that only trains may lack what it takes."""
    if find_spec("seaborn") is None:
        install = "pip install 'companion[course]'"
        print(f"{file} is not drawn without seaborn: {install}, then the same command")
        return
    import matplotlib.pyplot as plt

    from companion.vqvae.study.figures import draw_images

    draw_images(rows).savefig(file)
    plt.close("all")


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """What the numbers of a run depend on, but for its length."""
    free = {"steps", "out", "checkpoint_every", "fresh", "device"}
    return {name: value for name, value in vars(options).items() if name not in free}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; one that this quantizer would leave unused is refused."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in UNUSED[options.quantizer]:
        if (got := getattr(options, name)) != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option}: expected none with --quantizer {options.quantizer}, got {got}")
    if options.residual_levels > 1 and options.gradient != "straight":
        parser.error(
            f"--gradient: expected straight with --residual-levels above 1, got {options.gradient}"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion.vqvae.train")
    add = parser.add_argument
    add("--data", choices=tuple(LEVELS), default="digits")
    add("--quantizer", choices=("ema", "gradient", "fsq"), default="ema")
    recipe_arguments(parser, steps=10_000, checkpoint_every=500, out="vqvae_run")
    add("--codes", type=at_least(1), default=256, help="of a codebook (%(default)s)")
    add("--dim", type=at_least(1), default=16, help="width of a code (%(default)s)")
    add("--beta", type=between(0, math.inf), default=0.25, help="of the commitment (%(default)s)")
    add("--decay", type=between(0, 1), default=0.99, help="of moving averages (%(default)s)")
    add("--revive-below", type=between(0, math.inf), default=0.25, help="(%(default)s)")
    add("--no-revival", action="store_true", help="leave codes alone that nothing chooses")
    add("--kmeans-start", action="store_true", help="first codes by k-means of the first batch")
    add("--residual-levels", type=at_least(1), default=1, help="codebooks in a row (%(default)s)")
    add("--fsq-levels", type=at_least(2), nargs="+", default=[8, 6, 5], help="(%(default)s)")
    add("--gradient", choices=tuple(GRADIENTS), default="straight", help="past the choice")
    add("--width", type=at_least(1), default=64, help="of both networks (%(default)s)")
    add("--residual-blocks", type=at_least(0), default=2, help="(%(default)s)")
    add("--batch-size", type=at_least(1), default=32)
    add("--learning-rate", type=between(0, math.inf), default=1e-3)
    add("--precision", choices=get_args(Precision), default="fp32", help="of the networks")
    return parser


if __name__ == "__main__":
    main()
