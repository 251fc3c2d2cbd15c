"""Real photographs, as tensors."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from companion.data.installed import COURSE, installed_file

__all__ = ["photos"]

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "clock": ("skimage", "data/clock_motion.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


def photos() -> dict[str, Float[Tensor, "3 H W"]]:
    """Thirteen photographs that scikit-image and scikit-learn ship, by name.

    Origin and licence, photo by photo: public domain — astronaut (NASA), clock (S. van der Walt),
    hubble (NASA), rocket (SpaceX); CC0 — brick and gravel (CC0Textures), camera (L. Varshney),
    cat (S. van der Walt), coffee (R. Michetti), grass (linolafett); no known copyright — coins
    (Brooklyn Museum); CC BY 2.0 — china (danielbuechele), flower (vultilion).
    Difference: the files are left at their size; a grey one is repeated over three channels.

    Returns:
        Name → float32 ``[3, H, W]`` in [0, 1], sRGB values as stored in the file.
        Sizes differ, from 300×400 to 872×1000.

    Raises:
        ImportError: If one of the two is not installed; the message says how to install it.

    Example:
        >>> tuple(photos()["coffee"].shape)
        (3, 400, 600)
    """
    return {name: _read(*source) for name, source in _FILES.items()}


def _read(package: str, path: str) -> Float[Tensor, "3 H W"]:
    file = installed_file(package, path, install=COURSE)
    from PIL import Image  # scikit-image needs it, so it is there

    with Image.open(file) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(255).contiguous()
