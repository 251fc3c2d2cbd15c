"""Digits, faces and photos: the documented shape, type and range, and the right content."""

import numpy as np
import pytest
import torch
from PIL import Image

from companion.data import digits, faces, photos
from companion.data.installed import installed_file, installed_folder


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = digits()
    oracle = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(images[:, 0].numpy() * 16, oracle.images)
    np.testing.assert_array_equal(labels.numpy(), oracle.target)


def test_faces_are_those_of_scikit_image():
    from skimage.data import lfw_subset

    images, labels = faces()
    assert images.shape == (200, 1, 25, 25)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_allclose(images[:, 0].numpy(), lfw_subset(), atol=1e-7)


def test_faces_look_alike_and_backgrounds_do_not():
    """Were the labels swapped, this would fail: faces vary less about their mean."""
    images, labels = faces()
    spread = {label: images[labels == label].std(dim=0).mean() for label in (0, 1)}
    assert (labels == 1).sum() == 100
    assert spread[1] < 0.8 * spread[0]


def test_photos_have_three_channels_in_the_unit_interval():
    named = photos()
    assert len(named) == 13
    for name, photo in named.items():
        assert photo.ndim == 3, name
        assert photo.shape[0] == 3, name
        assert photo.dtype == torch.float32, name
        assert 0 <= photo.min() < photo.max() <= 1, name
        assert photo.std() > 0.05, name
        assert photo.is_contiguous(), name


def test_photos_keep_their_orientation_and_channels():
    from skimage.data import astronaut, camera
    from sklearn.datasets import load_sample_image

    named = photos()
    for name, oracle in [("astronaut", astronaut()), ("china", load_sample_image("china.jpg"))]:
        ours = (named[name].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        np.testing.assert_array_equal(ours, oracle)
    grey = (named["camera"] * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(grey, np.broadcast_to(camera(), (3, 512, 512)))


def test_each_call_returns_tensors_of_its_own():
    photos()["cat"].zero_()
    assert photos()["cat"].max() > 0


def test_missing_package_names_the_command():
    with pytest.raises(ImportError, match=r"'no_such_package' is not installed.*make lab"):
        installed_folder("no_such_package", install="make lab")


def test_missing_file_names_the_command():
    with pytest.raises(ImportError, match=r"'skimage' does not hold 'data/none.png'.*make lab"):
        installed_file("skimage", "data/none.png", install="make lab")


def test_files_are_read_as_pillow_reads_them():
    file = installed_file("skimage", "data/chelsea.png", install="make lab")
    with Image.open(file) as image:
        assert image.size == (451, 300)
