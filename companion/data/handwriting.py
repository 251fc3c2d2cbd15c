"""Handwritten digits, 8×8 grey levels."""

import torch

from companion.data.installed import COURSE, installed_folder
from companion.data.labelled import Labelled

__all__ = ["digits"]


def digits() -> Labelled:
    """The 1797 handwritten digits that scikit-learn ships.

    Origin: test part of the UCI set "Optical Recognition of Handwritten Digits"
    (Alpaydin & Kaynak 1998), 13 writers; read with ``sklearn.datasets.load_digits``.
    Licence: CC BY 4.0 (UCI Machine Learning Repository).
    Difference: the grey levels 0…16 are divided by 16.

    Returns:
        ``images`` float32 ``[1797, 1, 8, 8]`` in [0, 1], white ink on black;
        ``labels`` int64 ``[1797]``, 0…9.

    Raises:
        ImportError: If scikit-learn is not installed; the message says how to install it.

    Example:
        >>> images, labels = digits()
        >>> tuple(images.shape), labels[:5].tolist()
        ((1797, 1, 8, 8), [0, 1, 2, 3, 4])
    """
    installed_folder("sklearn", install=COURSE)  # else Python's own error names no command
    from sklearn.datasets import load_digits  # about a second: paid by those who ask for digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).div(16).reshape(-1, 1, 8, 8)
    return Labelled(images, torch.from_numpy(labels).to(torch.int64))
