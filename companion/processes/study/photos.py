"""What a data loader does to pictures: decode and augment, in native code and in Python.

Pillow decodes, resizes and blurs in C and lets go of the interpreter's lock meanwhile. A tone
curve written in Python keeps it. A job carries the encoded file, so a worker imports no more than
Pillow.
Chapter: course/10_processes.ipynb.
"""

import io
import random

from PIL import Image, ImageFilter, ImageOps

__all__ = ["SIDE", "augment_native", "augment_python", "encoded_photos"]

SIDE = 128  # of an augmented picture, in pixels
Job = tuple[bytes, int]


def encoded_photos() -> dict[str, bytes]:
    """The thirteen photographs of ``companion.data.photos`` as JPEG files in memory, by name."""
    from companion.data import photos

    files = {}
    for name, picture in photos().items():
        pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files[name] = file.getvalue()
    return files


def augment_native(job: Job) -> bytes:
    """Decode a picture, cut a random square out of it, perhaps flip it, and blur it.

    Args:
        job: The encoded file, and the seed of its random choices.

    Returns:
        SIDE × SIDE pixels of three bytes: the same for the same job, whoever computes it.
    """
    return _augmented(job).tobytes()


def augment_python(job: Job) -> bytes:
    """The same, and then a tone curve, value by value in Python."""
    pixels = _augmented(job).tobytes()
    return bytes(int(255 * (value / 255) ** 0.8 + 0.5) for value in pixels)


def _augmented(job: Job) -> Image.Image:
    file, seed = job
    rng = random.Random(seed)
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    side = rng.randint(min(picture.size) // 2, min(picture.size))
    left, top = (rng.randint(0, length - side) for length in picture.size)
    box = (left, top, left + side, top + side)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
