"""Which ranks share a host, and the links inside and between hosts.

Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from companion.checks import check_choice, check_count
from companion.collectives.cost.arguments import check_seconds

__all__ = ["Link", "Topology"]


class Link(NamedTuple):
    """A link on which n bytes take alpha_s + n · beta_s_per_byte.

    Fields:
        alpha_s: Seconds before the first byte.
        beta_s_per_byte: Seconds for each byte; 1e-9 is 1 GB/s.
    """

    alpha_s: float
    beta_s_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Hosts of equal size; ranks are numbered host by host.

    Fields:
        between: The link between two hosts, from one network card to another.
        inside: The link between two ranks of a host; needed where a host has several.
        ranks_per_host: R; 1 is a flat network.
        ranks_per_nic: Ranks of a host that share one network card; R is one card for the host.
        duplex: "full", a port sends and receives at once; "half", the two share its bandwidth.

    Raises:
        TypeError, ValueError: When made of what does not fit.

    Example:
        >>> gpus = Topology(
        ...     between=Link(14e-6, 1 / 50e9), inside=Link(3.4e-6, 1 / 450e9), ranks_per_host=8
        ... )
        >>> gpus.host(np.array([7, 8])).tolist()
        [0, 1]
    """

    between: Link
    inside: Link | None = None
    ranks_per_host: int = 1
    ranks_per_nic: int = 1
    duplex: Literal["full", "half"] = "full"

    def __post_init__(self) -> None:
        check_count("ranks_per_host", self.ranks_per_host)
        check_count("ranks_per_nic", self.ranks_per_nic)
        check_choice("duplex", self.duplex, ("full", "half"))
        if self.ranks_per_nic > self.ranks_per_host:
            limit, got = self.ranks_per_host, self.ranks_per_nic
            raise ValueError(f"ranks_per_nic must be in [1, {limit}], got {got}")
        if self.inside is None and self.ranks_per_host > 1:
            raise ValueError(f"inside: expected a link for {self.ranks_per_host} ranks, got None")
        for name in ("between",) if self.inside is None else ("between", "inside"):
            link = getattr(self, name)
            if not isinstance(link, Link):
                raise TypeError(f"{name}: expected a Link, got {type(link).__name__}")
            check_seconds(alpha_s=link.alpha_s, beta_s_per_byte=link.beta_s_per_byte)

    def host(self, rank: np.ndarray) -> np.ndarray:
        """The host of each rank."""
        return rank // self.ranks_per_host

    def nic(self, rank: np.ndarray) -> np.ndarray:
        """The network card of each rank, counted over all hosts."""
        cards = -(-self.ranks_per_host // self.ranks_per_nic)
        return self.host(rank) * cards + rank % self.ranks_per_host // self.ranks_per_nic

    def durations_s(self, src: np.ndarray, dst: np.ndarray, size_bytes: float) -> np.ndarray:
        """How long each message of one step takes, all of one size.

        Messages that pass one port in the same step and the same direction (with half duplex, in
        either) share its bandwidth from start to end. A rank's port inside its host and its network
        card are different ports.

        Args:
            src, dst: Sender and receiver of each message.
            size_bytes: Bytes of one message.
        """
        inside = self.host(src) == self.host(dst)
        alpha_s, beta = (
            np.where(inside, near, far)
            for near, far in zip(self.inside or self.between, self.between, strict=True)
        )
        return alpha_s + self._sharing(src, dst, inside) * size_bytes * beta

    def _sharing(self, src: np.ndarray, dst: np.ndarray, inside: np.ndarray) -> np.ndarray | int:
        """The most messages at either port of each message."""
        if len(src) == 1:
            return 1
        # Even numbers are ranks' own ports, odd ones network cards.
        out, into = (np.where(inside, 2 * rank, 2 * self.nic(rank) + 1) for rank in (src, dst))
        ports = max(out.max(), into.max()) + 1
        sending, receiving = np.bincount(out, minlength=ports), np.bincount(into, minlength=ports)
        if self.duplex == "half":
            sending = receiving = sending + receiving
        return np.maximum(sending[out], receiving[into])
