"""Public functions called rightly but for one argument: an error that says what is wrong.

Each chapter's ``test_bad_arguments.py`` has a right call of each of its functions. Only TypeError,
ValueError and, for a folder, FileNotFoundError count, and only if they say what was expected and
what came.
"""

import copy
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch

__all__ = ["check_answers", "check_complete"]

Calls = Mapping[Callable[..., object], Mapping[str, object]]

BAD = {
    "None": None,
    "a string": "x",
    "a list": [1.0],
    "a dict": {},
    "an object": object(),
    "complex": 1j,
    "an array": np.ones(3),
    "negative": -1,
    "zero": 0,
    "NaN": math.nan,
    "infinite": math.inf,
    "huge": 1e300,
    "an empty tensor": torch.zeros(0),
    "a tensor of other shape": torch.ones(2, 3, 4, 5),
    "a tensor of integers": torch.ones(3, dtype=torch.int64),
    "a tensor with NaN": torch.full((3,), math.nan),
    "a complex tensor": torch.ones(3, dtype=torch.complex64),
}
# What no argument of a public function can be, unless its annotation says so.
NEVER = ("a dict", "an object", "complex", "an array", "a complex tensor")


def check_complete(room: types.ModuleType, calls: Calls, *, without: Collection[object] = ()):
    """Every public function of a room has a right call, but results and those named."""
    public = {thing for thing in map(vars(room).get, room.__all__) if callable(thing)}
    results = {t for t in public if hasattr(t, "_fields") or hasattr(t, "__dataclass_fields__")}
    errors = {t for t in public if isinstance(t, type) and issubclass(t, Exception)}
    assert public - errors - set(without) - (results - calls.keys()) == calls.keys()


def check_answers(calls: Calls):
    """Each argument of each call is replaced by every kind of nonsense."""
    silent, unclear = [], []
    for function, arguments in calls.items():
        function(**copy.deepcopy(arguments))  # so that the table is right
        annotations = hints(function)
        for name in arguments:
            for kind, value in BAD.items():
                where = f"{function.__name__}({name}={kind})"
                try:
                    function(**copy.deepcopy(arguments) | {name: value})
                except (TypeError, ValueError, FileNotFoundError) as error:
                    said = str(error)
                    if not (("expected" in said or "must" in said) and "got" in said):
                        unclear.append(f"{where}: {type(error).__name__}: {said[:90]}")
                except Exception as error:
                    unclear.append(f"{where}: {type(error).__name__}: {str(error)[:90]}")
                else:
                    if is_never(kind, annotations[name]):
                        silent.append(where)
    assert unclear == []
    assert silent == []


def hints(function) -> dict[str, object]:
    takes = function.__init__ if inspect.isclass(function) else function
    return typing.get_type_hints(takes, localns={"torch": torch})


def is_never(kind: str, annotation: object) -> bool:
    """Whether an argument with this annotation can never be of this kind."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return all(is_never(kind, option) for option in typing.get_args(annotation))
    origin = typing.get_origin(annotation)
    numbers = origin is Sequence and typing.get_args(annotation)[0] in (int, float)
    fits = {"a dict": origin is Mapping, "an array": annotation is np.ndarray or numbers}
    fits |= {"a complex tensor": annotation is torch.Tensor}
    if kind in NEVER:
        return not fits.get(kind, False)
    return {"None": annotation is not type(None), "a string": annotation is not str}.get(
        kind, False
    )
