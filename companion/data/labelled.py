"""The result type of every labelled image source."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Labelled"]


class Labelled(NamedTuple):
    """Images in [0, 1], float32, with one int64 label each. Dimension key: N images, C channels."""

    images: Float[Tensor, "N C H W"]
    labels: Int[Tensor, "N"]
