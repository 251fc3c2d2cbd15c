"""The sizes of a transformer."""

from dataclasses import dataclass

from companion.checks import check_count, check_number

__all__ = ["TransformerConfig"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a decoder of the Llama kind, as the fields below say.

    Raises:
        TypeError, ValueError: A size is not as said, or two do not fit.

    Example:
        >>> config = TransformerConfig(
        ...     vocabulary=11, width=12, layers=2, heads=3, hidden=20, max_length=16
        ... )
        >>> config.key_heads, config.head_width
        (3, 4)
    """

    vocabulary: int  # V, different tokens
    width: int  # D, numbers per position; H head widths, which are even
    layers: int  # blocks, each an attention and an MLP
    heads: int  # H, query heads
    hidden: int  # width inside the MLP
    max_length: int  # positions 0 … max_length − 1
    key_heads: int | None = None  # G, divides H; H unless told
    rotary_base: float = 10000.0  # of the angles
    epsilon: float = 1e-5  # added to the mean square in RMSNorm
    tied: bool = True  # whether the head's weight is the embedding's

    def __post_init__(self) -> None:
        if self.key_heads is None:
            object.__setattr__(self, "key_heads", self.heads)
        for name in ("vocabulary", "width", "layers", "heads", "key_heads", "hidden", "max_length"):
            check_count(name, getattr(self, name))
        check_number("rotary_base", self.rotary_base, above=0)
        check_number("epsilon", self.epsilon, above=0)
        if not isinstance(self.tied, bool):
            raise TypeError(f"tied: expected True or False, got {self.tied!r}")
        if self.width % self.heads or self.head_width % 2:
            raise ValueError(
                f"width: expected an even multiple of {self.heads} heads, got {self.width}"
            )
        if self.heads % self.key_heads:
            raise ValueError(
                f"key_heads: expected a divisor of {self.heads} heads, got {self.key_heads}"
            )

    @property
    def head_width(self) -> int:
        """Numbers per position in one head."""
        return self.width // self.heads
