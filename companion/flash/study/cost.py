"""How many bytes attention moves between a GPU's large, slow memory and its small, fast one.

    naive: 4n² + 4nd        flash: 3nd + 2n + ⌈n/B⌉(3nd + 4n)        tiled: 2nd + n + ⌈n/B⌉ · 2nd

numbers, with B = ⌈M / 4d⌉ for a fast memory of M numbers. With n ≫ d the first is Θ(n²) and the
other two are Θ(n² d² / M).

Source: Dao et al. 2022, arXiv:2205.14135, theorem 2; ``counted.py`` counts the same by running
the algorithms. The large memory is called HBM there, the fast one SRAM.
Chapter: course/09_flash.ipynb.  Here n is the length of queries and keys, d the head width, as in
the paper.
"""

import math
from typing import Literal, NamedTuple

from companion.checks import check_count, typed

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "TileSizes",
    "attention_flops",
    "check_sizes",
    "hbm_bytes",
    "tile_sizes",
]

Algorithm = Literal["naive", "tiled", "flash"]
ALGORITHMS = ("naive", "tiled", "flash")


class TileSizes(NamedTuple):
    """Rows of the two kinds of tile.

    Fields:
        outer: Rows of the tile that stays in the fast memory while the other kind passes: keys
            and values in "flash", queries in "tiled".
        inner: Rows of the tiles that pass.
    """

    outer: int
    inner: int


def tile_sizes(n: int, d: int, *, sram_bytes: int, element_bytes: int) -> TileSizes:
    """B_c = ⌈M / 4d⌉ and B_r = min(B_c, d), for a fast memory of M numbers, and at most n.

    Each of the four tiles (queries, keys, values, output) then takes about a quarter of M; the
    scores take up to another quarter, as the paper counts only up to a constant.

    Source: Dao et al. 2022, algorithm 1, line 1. Difference: a tile is no longer than the sequence.

    Example:
        >>> tile_sizes(4096, 64, sram_bytes=100_000, element_bytes=2)
        TileSizes(outer=196, inner=64)
    """
    check_sizes(n, d, sram_bytes=sram_bytes, element_bytes=element_bytes)
    elements = sram_bytes // element_bytes
    outer = math.ceil(elements / (4 * d))
    return TileSizes(min(outer, n), min(outer, d, n))


@typed
def hbm_bytes(n: int, d: int, *, sram_bytes: int, element_bytes: int, algorithm: Algorithm) -> int:
    """Bytes that one head's forward pass reads from and writes to the large memory.

    - "naive": three steps through the large memory (Dao et al. 2022, algorithm 0). Q, K and V are
      read; the scores are written, read, written as weights, and read; O is written. Each operand
      of a product is counted once, whatever fits into the fast memory: a lower bound.
    - "flash": key tiles outside (Dao et al. 2022, algorithm 1). K and V are read once; for each of
      their tiles all of Q, O, ℓ and m is read, and O, ℓ and m are written; at first, O, ℓ and m are
      filled.
    - "tiled": query tiles outside (Dao 2023, algorithm 1). Q is read, O and the log-sum-exp are
      written once; K and V are read once for each query tile.

    Every number, also of ℓ, m and the log-sum-exp, takes ``element_bytes``. No mask: every query
    sees every key.

    Args:
        n: Length of queries and of keys.
        d: Width of the head.
        sram_bytes: Size of the fast memory, at least 4·d numbers; "naive" does not depend on it.
        element_bytes: Bytes of a number.
        algorithm: "naive", "tiled" or "flash".

    Raises:
        TypeError: A size is not an integer.
        ValueError: A size is below 1, the fast memory is too small, or the algorithm is unknown.

    Example:
        >>> sizes = dict(sram_bytes=100_000, element_bytes=2)
        >>> [hbm_bytes(4096, 64, **sizes, algorithm=name) // 10**6 for name in ALGORITHMS]
        [136, 23, 35]
    """
    outer, _ = tile_sizes(n, d, sram_bytes=sram_bytes, element_bytes=element_bytes)
    outer_tiles = math.ceil(n / outer)
    if algorithm == "naive":
        numbers = 4 * n * d + 4 * n * n
    elif algorithm == "flash":
        numbers = (n * d + 2 * n) + 2 * n * d + outer_tiles * (3 * n * d + 4 * n)
    elif algorithm == "tiled":
        numbers = 2 * n * d + n + outer_tiles * 2 * n * d
    else:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    return numbers * element_bytes


def check_sizes(n: int, d: int, *, sram_bytes: int, element_bytes: int) -> None:
    """Refuse what no run could have; for the arguments, see ``hbm_bytes``."""
    sizes = {"n": n, "d": d, "sram_bytes": sram_bytes, "element_bytes": element_bytes}
    for name, size in sizes.items():
        check_count(name, size)
    if sram_bytes < 4 * d * element_bytes:
        raise ValueError(
            f"sram_bytes must hold 4 rows of {d} numbers, {4 * d * element_bytes} bytes, "
            f"got {sram_bytes}"
        )


def attention_flops(
    n: int, d: int, *, heads: int = 1, causal: bool = False, backward: bool = False
) -> int:
    """Operations of attention's matrix products, by the convention of the field.

        forward: 4 n² d (Q Kᵀ and P V)        backward: 10 n² d (five products, S among them again)

    Both are halved with a causal mask. The exponentials are not counted.

    Source: Dao 2023, arXiv:2307.08691, §4.1.

    Args:
        n: Length of queries and of keys.
        d: Width of a head.
        heads: Query heads, of all sequences together.
        causal: Half of the scores.
        backward: The backward pass alone, in place of the forward pass.

    Raises:
        TypeError, ValueError: A size is not an integer, or below 1.

    Example:
        >>> attention_flops(4096, 64, heads=32) / 1e9
        137.438953472
    """
    for name, size in {"n": n, "d": d, "heads": heads}.items():
        check_count(name, size)
    products = 5 if backward else 2
    return products * 2 * n * n * d * heads // (2 if causal else 1)
