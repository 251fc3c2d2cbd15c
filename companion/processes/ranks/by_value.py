"""What a new process is given to do: a function by its name, its arguments by value.

A spawned process shares nothing with the one that started it. It finds a function by importing
the module that defines it, so one that stands in a notebook cell does not exist there.

Chapter: course/10_processes.ipynb.
"""

import io
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any

__all__ = ["Call"]


class Call:
    """A function and its arguments, pickled when a process starts and unpickled by ``load``.

    Args:
        fn: What to call; importable by a new process.
        args: Its positional arguments.

    Raises:
        TypeError: If ``fn`` cannot be called.
        ValueError: If a new process cannot import ``fn``; later, when the call is handed to a
            process, if an argument cannot be pickled.

    Example:
        >>> fn, args = pickle.loads(pickle.dumps(Call(divmod, (7, 3)))).load()
        >>> fn(*args)
        (2, 1)
    """

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be a function, got {type(fn).__name__}")
        self._content: tuple[Any, ...] | bytes = (fn, args)
        self._name = getattr(fn, "__qualname__", type(fn).__qualname__)
        _by_value(fn, "fn")

    def __getstate__(self) -> dict[str, Any]:
        # Not earlier: locks and queues can be pickled only while a process is being started.
        fn, args = self._content
        name = f"the arguments of {self._name}"
        return {"_name": self._name, "_content": _by_value((fn, args), name)}

    def load(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function and its arguments, imported and unpickled here.

        Raises:
            ImportError: If this process cannot import something that they need.
        """
        try:
            return pickle.loads(self._content)
        except Exception as error:
            raise ImportError(
                f"a new process cannot read {self._name} and its arguments: what they use must "
                f"stand in modules that it can import ({type(error).__name__}: {error})"
            ) from error


class _Pickler(pickle.Pickler):
    """Knows the pipes and locks of multiprocessing, but copies tensors.

    PyTorch would move a tensor into memory that all processes share: then ranks that change an
    argument in place would change each other's.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        known = ForkingPickler(io.BytesIO()).dispatch_table
        self.dispatch_table = {
            kind: reduce
            for kind, reduce in known.items()
            if not kind.__module__.startswith("torch")
        }

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType):
            problem = _why_not_importable(value)
            if problem:
                raise ValueError(f"a new process cannot import {value.__qualname__}, {problem}")
        return NotImplemented


def _by_value(value: Any, name: str) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except ValueError as error:
        if not str(error).startswith("a new process cannot import"):
            raise _not_picklable(name, error) from error
        raise
    except Exception as error:
        raise _not_picklable(name, error) from error
    return file.getvalue()


def _not_picklable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name}: expected what can be pickled and sent to a new process, got "
        f"{type(error).__name__}: {error}"
    )


def _why_not_importable(value: type | FunctionType) -> str | None:
    name = value.__qualname__
    if "<lambda>" in name:
        return "a lambda: make it a function of a module"
    if "<locals>" in name:
        return "which is defined within a function: move it to the top of a module"
    if value.__module__ == "__main__" and not _main_can_be_imported():
        return (
            "which is defined in a notebook or at a prompt: move it to a module (in a notebook, "
            "%%writefile my_ranks.py at the top of its cell, then import my_ranks)"
        )
    return None


def _main_can_be_imported() -> bool:
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return True
    path = getattr(main, "__file__", None)
    return path is not None and os.path.exists(path)
