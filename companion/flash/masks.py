"""Which keys a query sees: causal masks, sliding windows, and the tiles that hold any of them.

Query i of T sits at key position p = i + S − T, so that the last query meets the last key
("bottom-right" alignment); with T = S, p = i.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["Window", "key_range", "query_range", "resolve_window", "visible_TS"]


class Window(NamedTuple):
    """How many keys a query at position p sees before and after p; None stands for all.

    Key j is visible when p − left ≤ j ≤ p + right.
    """

    left: int | None = None
    right: int | None = None


def resolve_window(
    window: int | tuple[int | None, int | None] | None, *, causal: bool = False
) -> Window:
    """The one description of what is visible, from the two arguments of the public functions.

    Args:
        window: None sees every key. An integer w sees the keys with |p − j| < w: the query's own
            position and w − 1 on either side (with ``causal``, the last w keys, as in Mistral 7B).
            A pair (left, right) counts each side; None or −1 leaves a side unlimited, and so
            does 2³¹ or more: no sequence is that long.
        causal: Hide the keys after p.

    Raises:
        TypeError: ``window`` is none of these.
        ValueError: An integer below 1, or a side below −1.

    Example:
        >>> resolve_window(4, causal=True)
        Window(left=3, right=0)
        >>> resolve_window((-1, 2))
        Window(left=None, right=2)
    """
    if window is None:
        left = right = None
    elif _is_integer(window):
        if window < 1:
            raise ValueError(f"window must be at least 1 key, got {window}")
        left = right = window - 1
    else:
        left, right = _sides(window)
    if causal:
        right = 0 if right is None else min(right, 0)
    # Kept, sys.maxsize would wrap round where a position is added to it.
    return Window(*(None if side is None or side >= 2**31 else side for side in (left, right)))


def visible_TS(
    queries: int, keys: int, window: Window, *, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """True where query i sees key j.

    Example:
        >>> visible_TS(2, 4, Window(left=1, right=0)).int()
        tensor([[0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if window.left is not None:
        visible.triu_(keys - queries - window.left)
    if window.right is not None:
        visible.tril_(keys - queries + window.right)
    return visible


def key_range(first: int, end: int, queries: int, keys: int, window: Window) -> tuple[int, int]:
    """The half-open range of keys that any of the queries first … end − 1 sees.

    Outside this range a tile can be skipped. It is empty (start == stop) when no key is seen.

    Example:
        >>> key_range(2, 4, 8, 8, Window(right=0))
        (0, 4)
    """
    shift = keys - queries
    start = 0 if window.left is None else first + shift - window.left
    stop = keys if window.right is None else end + shift + window.right
    return _clipped(start, stop, keys)


def query_range(first: int, end: int, queries: int, keys: int, window: Window) -> tuple[int, int]:
    """The half-open range of queries that see any of the keys first … end − 1.

    Example:
        >>> query_range(2, 4, 8, 8, Window(right=0))
        (2, 8)
    """
    shift = keys - queries
    start = 0 if window.right is None else first - shift - window.right
    stop = queries if window.left is None else end - shift + window.left
    return _clipped(start, stop, queries)


def _clipped(start: int, stop: int, length: int) -> tuple[int, int]:
    start = min(max(start, 0), length)
    return start, max(start, min(stop, length))


def _sides(window: object) -> tuple[int | None, int | None]:
    if not (isinstance(window, tuple | list) and len(window) == 2):
        raise TypeError(f"window must be None, an int or a pair (left, right), got {window!r}")
    for side in window:
        if side is not None and not _is_integer(side):
            raise TypeError(f"a side of window must be an int or None, got {side!r}")
        if side is not None and side < -1:
            raise ValueError(f"a side of window must be at least 0 (or −1 for all), got {side}")
    left, right = (None if side == -1 else side for side in window)
    return left, right


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
