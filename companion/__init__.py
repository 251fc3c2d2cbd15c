"""Tested implementations behind an interactive course on how modern generative models work.

Each chapter of the course has one subpackage here, with the same short name: the chapter
``course/02_wasserstein.ipynb`` calls ``companion.wasserstein``. The shared rooms are
``companion.data``, ``companion.training``, ``companion.language``, ``companion.measure``,
``companion.explore`` and ``companion.bench``.
"""

__version__ = "0.1.0"
