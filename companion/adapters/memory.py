"""Memory that training takes, term by term.

    total = weights + gradients + optimizer states + master weights + activations

Sources: Micikevicius et al. 2018, arXiv:1710.03740, §3.1 (master weights); Rajbhandari et al. 2020
(ZeRO), arXiv:1910.02054, §3.1 (16 bytes a parameter) and §5 (shards).
Chapter: course/05_adapters.ipynb.
"""

import dataclasses
import math
from typing import Literal

import torch

__all__ = ["MemoryReport", "training_memory"]

# Tensors of the weight's size that the optimizer keeps; its step counts are not worth a term.
STATES = {"adamw": 2, "adam": 2, "sgd-momentum": 1, "sgd": 0}

# Dettmers et al. 2023, arXiv:2305.14314, §3: four bits, an 8-bit scale for each 64 weights, and a
# float32 scale for each 256 of those.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Bytes of each term, over all devices together.

    Fields:
        weights: The model in the dtype it computes from.
        gradients: One for each trained parameter, in its dtype.
        optimizer_states: What the optimizer remembers.
        master_weights: Float32 copies of trained parameters that are kept in fewer bits.
        activations: As it was given.
        shards: Devices that share the bytes evenly.
    """

    weights: int
    gradients: int
    optimizer_states: int
    master_weights: int
    activations: int
    shards: int = 1

    @property
    def total(self) -> int:
        """Bytes of all terms, over all devices."""
        return (
            self.weights
            + self.gradients
            + self.optimizer_states
            + self.master_weights
            + self.activations
        )

    @property
    def per_device(self) -> int:
        """Bytes on each of the shards, if all terms are split evenly."""
        return math.ceil(self.total / self.shards)

    def devices(self, device_bytes: float) -> int:
        """Devices of that size which hold the total between them.

        Raises:
            ValueError: If ``device_bytes`` is not positive.

        Example:
            >>> MemoryReport(100, 0, 0, 0, activations=61).devices(80)
            3
        """
        if not device_bytes > 0:
            raise ValueError(f"device_bytes: expected more than 0, got {device_bytes}")
        return max(1, math.ceil(self.total / device_bytes))


def training_memory(
    num_parameters: float,
    *,
    weight_dtype: torch.dtype | Literal["nf4"],
    optimizer: str = "adamw",
    master_weights: bool = True,
    trainable_fraction: float = 1.0,
    trainable_dtype: torch.dtype | None = None,
    activations_bytes: float = 0,
    shards: int = 1,
) -> MemoryReport:
    """Bytes that training takes, by counting.

        N (1 − f) · frozen  +  N f · (weight + gradient + states + master)  +  activations

    In mixed precision with AdamW a trained parameter takes 2 + 2 + 2·4 + 4 = 16 bytes.

    The figures that practitioners quote, 160 GB for a 7B model and 1600 GB for a 72B one, are two
    and twenty cards of 80 GB. At 16 bytes a parameter the models take 112 GB and 1152 GB: 70% and
    72% of those cards. The other 48 GB and 448 GB are for activations (10,800 and 20,100 tokens at
    34 bytes a token, layer and unit of width) and for what is not counted here: temporary buffers,
    autocast's copies, the runtime, and free memory in pieces too small to use.

    Args:
        num_parameters: All parameters N, frozen and trained, each once; a whole number.
        weight_dtype: Dtype of the weights, or ``"nf4"`` for 4.127 bits each.
        optimizer: One of adamw, adam, sgd-momentum and sgd. (Adafactor's states depend on the
            shapes, so no count of parameters gives them.)
        master_weights: Whether trained parameters below 32 bits have a float32 copy, to which the
            optimizer's states belong; otherwise the states have the trained parameters' dtype.
        trainable_fraction: Part f of N that is trained, in [0, 1].
        trainable_dtype: Dtype of trained parameters and gradients; by default ``weight_dtype``, or
            float32 where that is not floating point, as ``"nf4"``.
        activations_bytes: Bytes kept for the backward pass, over all devices.
        shards: Devices that share all terms evenly, as in ZeRO-3 and FSDP; changes ``per_device``.

    Returns:
        The terms in bytes. A GB is 10⁹ bytes.

    Raises:
        TypeError: If ``weight_dtype`` is neither a dtype nor ``"nf4"``, or trained parameters would
            not be floating point.
        ValueError: If a number is out of its range, or the optimizer is unknown.

    Example:
        >>> report = training_memory(7e9, weight_dtype=torch.bfloat16, activations_bytes=48e9)
        >>> report.total / 1e9, report.devices(80e9)
        (160.0, 2)
        >>> training_memory(7e9, weight_dtype="nf4", trainable_fraction=0.01).total / 1e9
        4.69...
    """
    _check(num_parameters, optimizer, trainable_fraction, activations_bytes, shards)
    frozen_bits, trained_dtype = _dtypes(weight_dtype, trainable_dtype)
    trained = round(num_parameters * trainable_fraction)
    frozen = int(num_parameters) - trained
    size = trained_dtype.itemsize
    wide = max(size, 4) if master_weights else size
    return MemoryReport(
        weights=math.ceil(frozen * frozen_bits / 8) + trained * size,
        gradients=trained * size,
        optimizer_states=trained * STATES[optimizer] * wide,
        master_weights=trained * wide if wide > size else 0,
        activations=math.ceil(activations_bytes),
        shards=shards,
    )


def _dtypes(
    weight_dtype: torch.dtype | str, trainable_dtype: torch.dtype | None
) -> tuple[float, torch.dtype]:
    """Bits of a frozen weight, and the dtype of a trained one."""
    if isinstance(weight_dtype, torch.dtype):
        bits = 8 * weight_dtype.itemsize
        default = weight_dtype if weight_dtype.is_floating_point else torch.float32
    elif weight_dtype == "nf4":
        bits, default = NF4_BITS, torch.float32
    else:
        raise TypeError(f"weight_dtype: expected a torch.dtype or 'nf4', got {weight_dtype!r}")
    trained = default if trainable_dtype is None else trainable_dtype
    if not trained.is_floating_point:
        raise TypeError(f"trainable_dtype: expected floating point, got {trained}")
    return bits, trained


def _check(
    num_parameters: float,
    optimizer: str,
    trainable_fraction: float,
    activations_bytes: float,
    shards: int,
) -> None:
    if not (num_parameters >= 1 and float(num_parameters).is_integer()):
        raise ValueError(f"num_parameters: expected a whole number >= 1, got {num_parameters}")
    if optimizer not in STATES:
        raise ValueError(f"optimizer: expected one of {', '.join(STATES)}; got {optimizer!r}")
    if not 0 <= trainable_fraction <= 1:
        raise ValueError(f"trainable_fraction: expected 0 to 1, got {trainable_fraction}")
    if not 0 <= activations_bytes < math.inf:
        raise ValueError(f"activations_bytes: expected a number >= 0, got {activations_bytes}")
    if shards < 1:
        raise ValueError(f"shards: expected at least 1, got {shards}")
