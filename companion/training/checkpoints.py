"""A nested state, written to one file in one stroke and read back bit for bit.

The file is safetensors: tensors as tensors, everything else as JSON in its header, and a SHA-256 of
all of it, so that no damaged bit goes unnoticed. Nothing is pickled, so opening a stranger's
checkpoint runs none of the stranger's code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from companion.training.whole_file import write_whole

__all__ = ["check_writable", "content_digest", "read_checkpoint", "write_checkpoint"]

_FORMAT = "companion checkpoint"
_VERSION = "2"


def write_checkpoint(path: Path | str, tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, tensors and plain values to ``path``.

    Whatever happens, a process killed here leaves either the old checkpoint or the new one, whole.

    Args:
        path: File to write; its folder is made.
        tree: Dict keys are ``str`` or ``int``; leaves are ``Tensor``, ``str``, ``int``, ``float``,
            ``bool`` or ``None``. A NumPy number is written as the Python number that it equals.

    Raises:
        TypeError: If a leaf or key is of another type; the message says where it stands.
        OSError: If it cannot be written; the old file is whole then.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> write_checkpoint(path, {"step": 3, "betas": (0.9, 0.999), "w": torch.ones(2)})
        >>> read_checkpoint(path)
        {'step': 3, 'betas': (0.9, 0.999), 'w': tensor([1., 1.])}
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "tree": json.dumps(_encode(tree, (), tensors)),
    }
    header["sha256"] = content_digest(header["tree"], tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_whole(path, lambda partial: save_file(tensors, partial, metadata=header))
    except (SafetensorError, OSError) as error:  # safetensors has its own word for a full disk
        raise OSError(f"cannot write the checkpoint {path}: {error}") from error


def check_writable(tree: Any) -> None:
    """Refuse a tree that ``write_checkpoint`` could not write, before there is much to lose.

    Raises:
        TypeError: If a leaf or key is of another type; the message says where it stands.
    """
    _encode(tree, (), None)


def read_checkpoint(path: Path | str) -> Any:
    """The tree that ``write_checkpoint`` wrote, with its tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is cut short or damaged in any bit, is no checkpoint, or has another
            version; the message says which file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # Before a copy: that makes 1 of any byte of a bool that is not 0.
            digest = content_digest(header.get("tree", ""), tensors)
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"expected a whole checkpoint in {path}, got a truncated or damaged file ({error})"
        ) from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"expected a {_FORMAT} in {path}, got another safetensors file")
    if header.get("version") != _VERSION:
        raise ValueError(
            f"expected version {_VERSION} of the {_FORMAT} in {path}, got {header.get('version')}"
        )
    if header.get("sha256") != digest:
        raise ValueError(
            f"expected a whole checkpoint in {path}, got a damaged file (its SHA-256 does not fit)"
        )
    return _decode(json.loads(header["tree"]), tensors)


def content_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of a text and of each tensor's name, dtype, shape and bytes.

    Args:
        text: Any.
        tensors: On the CPU and contiguous.

    Example:
        >>> whole = content_digest("{}", {"x": torch.ones(2)})
        >>> whole == content_digest("{}", {"x": torch.ones(2, 1)})
        False
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _encode(node: Any, where: tuple, tensors: dict[str, Tensor] | None) -> Any:
    """JSON for ``node``; its tensors go to ``tensors``, if given, under their place in the tree."""
    name = "/".join(map(str, where))
    if isinstance(node, Tensor):
        if tensors is None:
            return None
        if name in tensors or "#" in name or name == "__metadata__":  # the file's own word
            name = f"{name}#{len(tensors)}"
        # A copy for each: safetensors refuses two tensors that share memory (tied weights).
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(node, dict):
        if bad := [key for key in node if type(key) not in (str, int)]:
            raise TypeError(f"expected str or int keys at {name!r}, got {bad[0]!r}")
        return {"dict": [[key, _encode(node[key], (*where, key), tensors)] for key in node]}
    if isinstance(node, list | tuple):
        items = [_encode(item, (*where, i), tensors) for i, item in enumerate(node)]
        return {"tuple": items} if isinstance(node, tuple) else items
    if isinstance(node, np.number | np.bool_):
        node = node.item()
    if node is None or type(node) in (str, int, float, bool):
        return node
    raise TypeError(f"expected tensors and plain values in a state, got {type(node)} at {name!r}")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return {key: _decode(item, tensors) for key, item in content}
