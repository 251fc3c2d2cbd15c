"""Keys and values of the tokens seen so far, so that each token is read once.

Dimension key: L layers, B batch, G key heads, T new entries, S entries with them, D head width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from companion.checks import check_count, typed
from companion.transformer.checks import check_integers, check_new, check_shape
from companion.transformer.config import TransformerConfig

__all__ = ["KVCache"]


class KVCache:
    """Room for keys and values of each layer, taken once.

    The layers append one after the other; their new entries count only after ``advance``, which
    the model calls at the end of its pass. So a pass that fails leaves the cache as it was.

    Args:
        config: Gives L, G and D.
        batch: B, at least 1.
        max_length: Most entries in a layer; the model's most positions unless told. A tree of
            drafts needs more entries than positions.
        dtype: As the model computes keys; under autocast, autocast's.
        device: Where they lie. Memory: 2 · L · B · G · max_length · D numbers.

    Raises:
        TypeError, ValueError: An argument is not as above.

    Example:
        >>> config = TransformerConfig(
        ...     vocabulary=11, width=2, layers=1, heads=1, hidden=8, max_length=16
        ... )
        >>> cache = KVCache(config, batch=1)
        >>> k = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 2)
        >>> keys, values = cache.append(0, k, -k)
        >>> cache.advance(5)
        >>> cache.keep(torch.tensor([0, 1, 4]))
        >>> cache.append(0, k, -k)[0][0, 0, :, 0]
        tensor([0., 1., 4., 0., 1., 2., 3., 4.])
    """

    @typed
    def __init__(
        self,
        config: TransformerConfig,
        *,
        batch: int,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_length = config.max_length if max_length is None else max_length
        check_count("batch", batch)
        check_count("max_length", self.max_length)
        if not dtype.is_floating_point:
            raise TypeError(f"dtype: expected one of floating-point numbers, got {dtype}")
        sizes = (config.layers, batch, config.key_heads, self.max_length, config.head_width)
        self._entries_2LBGSD = torch.zeros(2, *sizes, dtype=dtype, device=device)
        self._length = 0

    @property
    def length(self) -> int:
        """Entries that count: as many in each layer and each row of the batch."""
        return self._length

    def append(
        self, layer: int, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"]
    ) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
        """Write one layer's new entries after those that count.

        Returns:
            All its keys and values, S = length + T: views, good until the next pass.

        Raises:
            ValueError: The new ones do not fit or need a gradient; nothing is written.
        """
        check_count("layer", layer, least=0, most=self._entries_2LBGSD.shape[1] - 1)
        count, room = k.shape[-2], self.max_length - self._length
        if count > room:
            raise ValueError(f"cache: expected at most {room} more entries, got {count}")
        all_2BGSD = self._entries_2LBGSD[:, layer, :, :, : self._length + count]
        new_2BGTD = all_2BGSD[:, :, :, self._length :]
        for name, x, place in (("k", k, new_2BGTD[0]), ("v", v, new_2BGTD[1])):
            check_new(name, x, place)
        new_2BGTD[0], new_2BGTD[1] = k, v
        return all_2BGSD[0], all_2BGSD[1]

    def advance(self, count: int) -> None:
        """Let ``count`` new entries count, once every layer has appended its own."""
        check_count("count", count, least=0, most=self.max_length - self._length)
        self._length += count

    def truncate(self, length: int) -> None:
        """Forget the entries after the first ``length``."""
        check_count("length", length, least=0, most=self._length)
        self._length = length

    def keep(self, indices: Int[Tensor, "*B n"]) -> None:
        """Make these entries the first n and forget the others: a prefix, and a path of a tree.

        Args:
            indices: Entry numbers, strictly increasing, for all rows of the batch or for each.

        Raises:
            TypeError, ValueError: They are not as above; nothing is changed.
        """
        here = indices.cpu() if isinstance(indices, Tensor) else indices  # to read the numbers
        check_integers("indices", here, below=self._length)
        layers, batch, heads, _, width = self._entries_2LBGSD.shape[1:]
        count = here.shape[-1] if here.ndim else 0
        check_shape("indices", here, (count,), (batch, count))
        if (here.diff() < 1).any():
            raise ValueError(f"indices: expected a strict increase, got {here.tolist()}")
        rows_BN = here.long().expand(batch, count)
        # Since they increase, the entries that stay in their places are the first ones.
        stay = int((rows_BN == torch.arange(count)).all(dim=0).sum())
        source = rows_BN[:, None, stay:, None].expand(2, layers, batch, heads, -1, width)
        # gather copies all before one is written: a new place may be another's old one.
        moved = self._entries_2LBGSD.gather(4, source.to(self._entries_2LBGSD.device))
        self._entries_2LBGSD[..., stay:count, :] = moved
        self._length = count
