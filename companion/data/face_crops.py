"""Small grey-level face crops, and crops that are no faces."""

import numpy as np
import torch

from companion.data.installed import COURSE, installed_file
from companion.data.labelled import Labelled

__all__ = ["faces"]


def faces() -> Labelled:
    """The 100 faces and 100 backgrounds that scikit-image ships.

    Origin: crops of "Labeled Faces in the Wild" (Huang et al. 2007), resized to 25×25;
    the file ``skimage/data/lfw_subset.npy``, which ``skimage.data.lfw_subset`` reads too.
    Licence: the set states none. Its photos come from news sites and it is meant for research,
    so show single faces sparingly and do not identify people.

    Returns:
        ``images`` float32 ``[200, 1, 25, 25]`` in [0, 1];
        ``labels`` int64 ``[200]``, 1 for a face and 0 for a background.

    Raises:
        ImportError: If scikit-image is not installed; the message says how to install it.

    Example:
        >>> images, labels = faces()
        >>> tuple(images.shape), labels.sum().item()
        ((200, 1, 25, 25), 100)
    """
    file = installed_file("skimage", "data/lfw_subset.npy", install=COURSE)
    images = torch.from_numpy(np.load(file)).to(torch.float32).unsqueeze(1)
    labels = torch.zeros(len(images), dtype=torch.int64)
    labels[:100] = 1  # the file holds the faces first
    return Labelled(images, labels)
