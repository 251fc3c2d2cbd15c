"""Tests that take times, or count memory, on a machine that does other work as well."""

import functools
from collections.abc import Callable

ATTEMPTS = 6


def measured_again(test: Callable[..., None]) -> Callable[..., None]:
    """Take the measurement anew, up to ``ATTEMPTS`` times, while its assertions fail.

    Other work comes and goes. What the code under test does wrong it does in every attempt, so
    that a bug still fails.
    """

    @functools.wraps(test)
    def attempts(*args: object, **kwargs: object) -> None:
        for _ in range(ATTEMPTS - 1):
            try:
                return test(*args, **kwargs)
            except AssertionError:
                continue
        return test(*args, **kwargs)

    return attempts
