"""The options that all recipes have, and ranges for those of their own."""

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["at_least", "between", "recipe_arguments"]


def recipe_arguments(
    parser: argparse.ArgumentParser, *, steps: int, checkpoint_every: int, out: str
) -> None:
    """Add the options of a run that can be stopped: how long it is, and where and when it writes.

    Args:
        parser: Of the recipe.
        steps: Default of ``--steps``.
        checkpoint_every: Default of ``--checkpoint-every``, in steps.
        out: Default of ``--out``, a folder.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> recipe_arguments(parser, steps=100, checkpoint_every=10, out="run")
        >>> parser.parse_args(["--steps", "7"]).steps
        7
    """
    add = parser.add_argument
    add("--steps", type=at_least(1), default=steps, help=f"of the whole run ({steps})")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--seed", type=at_least(0), default=0, help="of all that is drawn (0)")
    add("--out", type=Path, default=Path(out), help=f"folder for the results ({out})")
    every = f"steps ({checkpoint_every})"
    add("--checkpoint-every", type=at_least(1), default=checkpoint_every, help=every)
    add("--fresh", action="store_true", help="start again in --out, whatever is there")


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: an integer that is not below ``least``.

    Example:
        >>> at_least(1)("0")
        Traceback (most recent call last):
        ...
        argparse.ArgumentTypeError: expected at least 1, got 0
    """

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return int(text)

    return integer


def between(low: float, high: float) -> Callable[[str], float]:
    """An argument's type: a number above ``low`` and below ``high``.

    Example:
        >>> between(0, 1)("1.5")
        Traceback (most recent call last):
        ...
        argparse.ArgumentTypeError: expected more than 0 and less than 1, got 1.5
    """

    def number(text: str) -> float:
        if not low < float(text) < high:
            raise argparse.ArgumentTypeError(
                f"expected more than {low} and less than {high}, got {text}"
            )
        return float(text)

    return number
