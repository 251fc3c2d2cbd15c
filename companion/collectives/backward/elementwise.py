"""Whether an optimizer can work on a piece of a parameter without seeing the rest.

ZeRO cuts the flat row of all parameters wherever a part ends. SGD, Adam and their like treat every
element by itself and never notice; LBFGS, Adafactor, Muon or LAMB need the whole.

Chapter: course/11_collectives.ipynb.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["check_elementwise"]

_STEPS = 3


def check_elementwise(optimizer_class: type[Optimizer], options: Mapping[str, Any]) -> None:
    """Try three steps on a matrix and on two cut pieces of it; they must move alike.

    A trial and not a list of names, so that it also judges an optimizer of the reader's own.

    Raises:
        ValueError: If the optimizer is not one that treats every element by itself.

    Example:
        >>> check_elementwise(torch.optim.Adam, {"lr": 1e-3})
        >>> check_elementwise(torch.optim.LBFGS, {"lr": 1e-3})
        Traceback (most recent call last):
        ValueError: expected an optimizer that treats every element by itself, because ZeRO cuts
        parameters into flat pieces; got LBFGS, which ...
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    slopes = torch.randn(_STEPS, 4, 6, dtype=torch.float64, generator=generator)
    try:
        whole = _moved(optimizer_class, options, [start], [[slope] for slope in slopes])
        cut = _moved(
            optimizer_class,
            options,
            list(start.view(-1).split([9, 15])),
            [list(slope.reshape(-1).split([9, 15])) for slope in slopes],
        )
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise _refusal(optimizer_class, f"said: {error}") from error
    if not torch.allclose(whole, cut, rtol=1e-6, atol=1e-12):
        raise _refusal(optimizer_class, "moves a matrix in another way than its pieces")


def _moved(
    optimizer_class: type[Optimizer],
    options: Mapping[str, Any],
    start: list[torch.Tensor],
    slopes: list[list[torch.Tensor]],
) -> torch.Tensor:
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    # capturable only runs on a GPU; what is computed does not depend on it.
    options = {name: value for name, value in options.items() if name != "capturable"}
    optimizer = optimizer_class(parameters, **options)
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] = 0.1  # at the 0 of a warm-up nothing would move
    for step in slopes:
        for parameter, slope in zip(parameters, step, strict=True):
            parameter.grad = slope.clone()
        optimizer.step()
    pieces = zip(start, parameters, strict=True)
    return torch.cat([(after.detach() - before).view(-1) for before, after in pieces])


def _refusal(optimizer_class: type[Optimizer], why: str) -> ValueError:
    return ValueError(
        "expected an optimizer that treats every element by itself, because ZeRO cuts parameters "
        f"into flat pieces; got {optimizer_class.__name__}, which {why}"
    )
