"""What ``torch.autocast`` really did: each operation with the dtypes it took and gave.

Autocast casts the inputs of some operations to 16 bits, of some to 32, and leaves the others. The
lists differ between devices and versions: on CUDA a softmax is computed in float32, on a CPU in
the dtype that comes. So look, rather than remember.

Source: the documentation of torch.amp, "Autocast Op Reference".
Chapter: course/08_precision.ipynb.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from companion.checks import typed

__all__ = ["AutocastReport", "CastOperation", "autocast_report"]

# They move numbers, and compute none.
_VIEWS = {
    "t",
    "view",
    "_unsafe_view",
    "transpose",
    "expand",
    "permute",
    "slice",
    "select",
    "detach",
    "alias",
    "unsqueeze",
    "squeeze",
    "reshape",
    "clone",
    "split",
    "as_strided",
    "_reshape_alias",
}


class CastOperation(NamedTuple):
    """An operation with certain dtypes, and how often it ran.

    Fields:
        name: In ATen, as "addmm". "_to_copy" is a cast.
        inputs: Floating-point dtypes of its tensors, in order, without repeats.
        output: Of the result.
        count: Calls.
    """

    name: str
    inputs: tuple[torch.dtype, ...]
    output: torch.dtype
    count: int


class AutocastReport(tuple):
    """``CastOperation`` rows in the order of their first call; prints as a table."""

    def __str__(self) -> str:
        rows = [("operation", "takes", "gives", "calls")]
        for row in self:
            takes = ", ".join(map(_short, row.inputs)) or "-"
            rows.append((row.name, takes, _short(row.output), str(row.count)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


@typed
def autocast_report(
    model: nn.Module, inputs: Any, *, dtype: torch.dtype = torch.bfloat16, backward: bool = False
) -> AutocastReport:
    """Run a model once under autocast, and list what was computed in which dtype.

    Args:
        model: Called as it is, in its own mode, on the device of its first parameter.
        inputs: A tensor, a sequence of arguments or a mapping of keyword arguments.
        dtype: What autocast computes in: bfloat16 or float16.
        backward: Also list the backward pass of the sum of the first output. Gradients that the
            parameters have are left as they are.

    Returns:
        Rows of operation, input dtypes, output dtype and count. Views and copies are left out,
        casts are not.

    Raises:
        ValueError: Autocast does not know the dtype; or there is no backward pass, as no output is
            a tensor or no parameter is trained.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=-1))
        >>> for row in autocast_report(model, torch.ones(2, 3)):
        ...     print(row.name, row.output, row.count)
        _to_copy torch.bfloat16 3
        addmm torch.bfloat16 1
        _softmax torch.bfloat16 1
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    recorder = _Recorder()
    with recorder, torch.set_grad_enabled(backward):
        with torch.autocast(device.type, dtype=dtype):
            output = _call(model, inputs)
        if backward:
            first = next(
                (leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)), None
            )
            trained = [p for p in model.parameters() if p.requires_grad]
            if first is None or not trained:
                raise ValueError(
                    "backward: expected a tensor as output and parameters that are trained, "
                    f"got {type(output).__name__} and {len(trained)} parameters"
                )
            torch.autograd.grad(first.sum(), trained, allow_unused=True)
    return AutocastReport(
        CastOperation(name, takes, gives, count)
        for (name, takes, gives), count in recorder.seen.items()
    )


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, Sequence):
        return model(*inputs)
    return model(inputs)


class _Recorder(TorchDispatchMode):
    """Sees every operation after autocast has cast its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[torch.dtype, ...], torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        gives = next(_floating(result), None)
        if gives is not None and name not in _VIEWS:
            takes = tuple(dict.fromkeys(_floating((args, kwargs))))
            self.seen[name, takes, gives] += 1
        return result


def _floating(tree: Any) -> Iterator[torch.dtype]:
    for leaf in tree_flatten(tree)[0]:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf.dtype


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
