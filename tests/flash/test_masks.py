"""What is visible, against the definition pair by pair; ranges, against what is visible."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.flash.masks import Window, key_range, query_range, resolve_window, visible_TS

# From the arguments of the public functions to left and right


@pytest.mark.parametrize(
    ("window", "causal", "expected"),
    [
        (None, False, (None, None)),
        (None, True, (None, 0)),
        (1, False, (0, 0)),
        (4, False, (3, 3)),
        (4, True, (3, 0)),
        ((2, 5), False, (2, 5)),
        ((2, 5), True, (2, 0)),
        ((0, 0), False, (0, 0)),
        ((None, 3), False, (None, 3)),
        ((-1, 3), True, (None, 0)),
        ((3, -1), False, (3, None)),
        ((3, None), True, (3, 0)),
        ([-1, -1], False, (None, None)),
        (sys.maxsize, False, (None, None)),
        ((2**70, 2), True, (None, 0)),
        ((3, 2**31), False, (3, None)),
    ],
)
def test_resolved_by_hand(window, causal, expected):
    assert resolve_window(window, causal=causal) == Window(*expected)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (0, ValueError, "window must be at least 1 key, got 0"),
        (-3, ValueError, "window must be at least 1 key, got -3"),
        ((-2, 1), ValueError, r"side of window must be at least 0 \(or −1 for all\), got -2"),
        ((1, -5), ValueError, r"side of window must be at least 0 \(or −1 for all\), got -5"),
        (True, TypeError, r"None, an int or a pair \(left, right\), got True"),
        (2.0, TypeError, r"None, an int or a pair \(left, right\), got 2\.0"),
        ((1, 2, 3), TypeError, r"pair \(left, right\), got \(1, 2, 3\)"),
        ("ab", TypeError, "got 'ab'"),
        ((1.0, 2), TypeError, r"side of window must be an int or None, got 1\.0"),
        ((1, False), TypeError, "side of window must be an int or None, got False"),
    ],
)
def test_impossible_windows(window, error, message):
    with pytest.raises(error, match=message):
        resolve_window(window)


# Which key each query sees

lengths = st.integers(1, 14)
sides = st.none() | st.integers(0, 16)
windows = st.builds(Window, sides, sides) | st.builds(Window, sides, st.just(0))


def sees(i, j, queries, keys, window):
    """The definition, for one query and one key."""
    position = i + keys - queries
    from_left = window.left is None or j >= position - window.left
    return from_left and (window.right is None or j <= position + window.right)


@given(lengths, lengths, windows)
def test_visible_pair_by_pair(queries, keys, window):
    expected = [[sees(i, j, queries, keys, window) for j in range(keys)] for i in range(queries)]
    assert visible_TS(queries, keys, window).tolist() == expected


def test_the_last_query_meets_the_last_key():
    """Causal, 2 queries of 4 keys and 4 queries of 2 keys: the first two of these see nothing."""
    causal = resolve_window(None, causal=True)
    assert visible_TS(2, 4, causal).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert visible_TS(4, 2, causal).int().tolist() == [[0, 0], [0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("window", [1, 3, 7])
def test_a_causal_window_is_the_last_keys_as_in_mistral(window):
    visible = visible_TS(7, 7, resolve_window(window, causal=True))
    lower = torch.ones(7, 7, dtype=torch.bool).tril()
    assert torch.equal(visible, lower & lower.triu(1 - window))
    assert visible.sum(1).tolist() == [min(i + 1, window) for i in range(7)]


def test_on_the_device_asked_for(device):
    assert visible_TS(3, 5, Window(), device=device).device.type == device


# The range that holds what a tile sees


def hull(flags):
    """The smallest half-open range that holds every True; None without one."""
    found = [i for i, flag in enumerate(flags) if flag]
    return (found[0], found[-1] + 1) if found else None


@given(lengths, lengths, windows, st.data())
def test_key_range_is_the_smallest(queries, keys, window, data):
    first = data.draw(st.integers(0, queries - 1))
    end = data.draw(st.integers(first + 1, queries))
    start, stop = key_range(first, end, queries, keys, window)
    seen = visible_TS(queries, keys, window)[first:end].any(0).tolist()
    assert 0 <= start <= stop <= keys
    if any(seen):
        assert (start, stop) == hull(seen)
    else:
        assert start == stop


@given(lengths, lengths, windows, st.data())
def test_query_range_is_the_smallest(queries, keys, window, data):
    first = data.draw(st.integers(0, keys - 1))
    end = data.draw(st.integers(first + 1, keys))
    start, stop = query_range(first, end, queries, keys, window)
    seen = visible_TS(queries, keys, window)[:, first:end].any(1).tolist()
    assert 0 <= start <= stop <= queries
    if any(seen):
        assert (start, stop) == hull(seen)
    else:
        assert start == stop
