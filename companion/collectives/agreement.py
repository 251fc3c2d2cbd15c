"""Before any payload moves, the ranks make sure that they mean the same call.

A collective whose ranks bring different shapes, dtypes or operations adds up the wrong numbers or
waits for ever. So every call starts with an exchange of one header per rank, a text of a few
words, which ⌈log₂ P⌉ rounds spread to everybody: in round k each rank passes on the 2^k headers
that it holds.

Source: the all-gather is the "concatenation" of Bruck et al. 1997, IEEE TPDS 8(11).
Chapter: course/11_collectives.ipynb.  Dimension key: P ranks.
"""

import contextlib
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from companion.collectives.wire.calls import calls_of
from companion.collectives.wire.peers import Peers

__all__ = ["HEADER_BYTES", "CollectiveMismatch", "Header", "agree", "agree_or_refuse"]

HEADER_BYTES = 256
_WORD = 70  # characters at most of a field; the shape comes last and is cut where it must be


class CollectiveMismatch(RuntimeError):
    """The ranks of a group did not make the same call."""


@dataclass(frozen=True)
class Header:
    """What one rank says about its call.

    Attributes:
        collective: What is computed: "all_reduce", "all_gather" …
        algorithm: How: "ring", "tree" …
        op: "sum" …; empty where nothing is reduced.
        dtype: Name of the dtype, without "torch.".
        shape: The tensor's shape.
        options: Further settings that must be equal, as text: "chunk_bytes=1048576".
        problem: Why this rank cannot take part, if it cannot.
        call: How many calls this group has made before; ``agree`` counts them.
    """

    collective: str
    algorithm: str
    dtype: str
    shape: tuple[int, ...]
    op: str = ""
    options: str = ""
    problem: str = ""
    call: int = -1

    @classmethod
    def of(cls, tensor: Tensor, collective: str, algorithm: str, **fields: str) -> "Header":
        """The header of a call with this tensor."""
        if not isinstance(tensor, Tensor):  # said to all ranks first, then refused
            return cls(collective, algorithm, dtype=type(tensor).__name__, shape=(), **fields)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(collective, algorithm, dtype=dtype, shape=tuple(tensor.shape), **fields)

    def encoded(self) -> bytes:
        """The header as bytes; one too long for them ends with a digest of the whole."""
        shape = ",".join(map(str, self.shape))
        words = (self.collective, self.algorithm, self.dtype, self.op, self.options, self.problem)
        words = [word.replace("|", "/")[:_WORD] for word in words]
        text = "|".join([str(self.call), *words, shape, ""]).encode()
        if len(text) > HEADER_BYTES:
            digest = hashlib.blake2b(text, digest_size=8).hexdigest().encode()
            text = text[: HEADER_BYTES - 20] + b"...|" + digest
        return text.ljust(HEADER_BYTES, b"\0")

    @classmethod
    def decoded(cls, data: bytes) -> "Header":
        """The header that ``encoded`` wrote, its shape cut off where that was too long."""
        text = data.rstrip(b"\0").decode(errors="replace")
        call, collective, algorithm, dtype, op, options, problem, shape, *_ = text.split("|")
        sizes = tuple(int(size) for size in shape.split(",") if size.isdigit())
        return cls(collective, algorithm, dtype, sizes, op, options, problem, int(call))


def agree(header: Header, group: ProcessGroup | None = None) -> list[Header]:
    """Exchange headers with every rank of the group, and go on only if they describe one call.

    Takes ⌈log₂ P⌉ rounds, P−1 headers of 256 bytes from each rank. The group is in step
    afterwards, whatever came out of it: the next call may succeed.

    Args:
        header: This rank's call. The lengths along dim 0 may differ in an "all_gather".
        group: An initialised group; None is the default group.

    Returns:
        The headers of all ranks, in rank order.

    Raises:
        CollectiveMismatch: On every rank, naming those that differ from the majority (from
            rank 0, where there is none) and what they have.
        PeerLost: If a rank does not answer.
    """
    peers = Peers(group)
    header = replace(header, call=calls_of(peers.group).next_number())
    own = header.encoded()
    if peers.size == 1:
        return [header]
    gathered = bruck_all_gather(torch.frombuffer(bytearray(own), dtype=torch.uint8), peers)
    lines = [bytes(line) for line in gathered.cpu().numpy()]
    if all(line == own for line in lines) and not header.problem:
        return [header] * peers.size
    headers = [Header.decoded(line) for line in lines]
    _check_participants(headers, peers)
    _check_equal(headers, lines, peers)
    return headers


def agree_or_refuse(
    header: Header, group: ProcessGroup | None, refusal: Exception | None
) -> list[Header]:
    """Agree; but if this rank cannot take part, tell the others, then raise its own error.

    A rank that raised at once would leave the others waiting for it.
    """
    if refusal is None:
        return agree(header, group)
    header = replace(header, problem=f"{type(refusal).__name__}: {refusal}")
    with contextlib.suppress(CollectiveMismatch):
        agree(header, group)
    raise refusal


def bruck_all_gather(block: Tensor, peers: Peers) -> Tensor:
    """The equally long blocks of all ranks, one row each, in ⌈log₂ P⌉ rounds.

    Source: Bruck et al. 1997, IEEE TPDS 8(11).
    """
    rank, size = peers.rank, peers.size
    rows = torch.empty(size, block.numel(), dtype=block.dtype, device=peers.wire_device)
    rows[0] = block
    held = 1  # row i is that of rank (rank + i) mod P
    while held < size:
        count = min(held, size - held)
        arriving = rows[held : held + count].view(-1)
        leaving = rows[:count].view(-1)
        peers.exchange(leaving, (rank - held) % size, arriving, (rank + held) % size).wait()
        held += count
    return rows.roll(rank, dims=0)


def _check_participants(headers: list[Header], peers: Peers) -> None:
    unable = [(rank, header) for rank, header in enumerate(headers) if header.problem]
    if unable:
        title = _title([header for _, header in unable])
        reasons = "; ".join(
            f"{peers.label(rank)} cannot take part in {title}: {header.problem}"
            for rank, header in unable
        )
        raise CollectiveMismatch(reasons)


def _check_equal(headers: list[Header], lines: list[bytes], peers: Peers) -> None:
    """Compare what has to be equal; raise the error that names the ranks in the minority."""
    keys = [_comparable(header, line) for header, line in zip(headers, lines, strict=True)]
    counts = Counter(keys)
    if len(counts) == 1:
        return
    most = max(counts.values())
    tied = sum(count == most for count in counts.values()) > 1
    usual = keys[0] if tied else counts.most_common(1)[0][0]
    reference = headers[keys.index(usual)]
    parts, fields = [], {}
    for key in dict.fromkeys(key for key in keys if key != usual):
        header = headers[keys.index(key)]
        different = _differences(header, reference)
        fields |= {name: getattr(reference, name) for name in different}
        parts.append(f"{_have(key, keys, peers)} {_listed(different)}")
    others = "the others have" if counts[usual] > 1 and not tied else _have(usual, keys, peers)
    values = f"{others} {_listed(fields, named=len(parts) > 1 or len(fields) > 1)}"
    raise CollectiveMismatch(f"ranks disagree on {_title(headers)}: {', '.join(parts)}, {values}")


def _have(key: object, keys: list[object], peers: Peers) -> str:
    """The ranks with this key and their verb, as in "rank 2 has"."""
    ranks = [peers.label(rank) for rank, other in enumerate(keys) if other == key]
    return f"{ranks[0]} has" if len(ranks) == 1 else f"{' and '.join(ranks)} have"


def _comparable(header: Header, line: bytes) -> object:
    if header.collective != "all_gather":
        return line
    return replace(header, shape=(len(header.shape), *header.shape[1:]))


def _differences(header: Header, reference: Header) -> dict[str, object]:
    own, usual = asdict(header), asdict(reference)
    different = {name: own[name] for name in own if own[name] != usual[name]}
    if "collective" in different or "algorithm" in different:  # what follows from that is no news
        different = {k: v for k, v in different.items() if k in ("collective", "algorithm", "call")}
    return different or {"shape": header.shape}  # too long for the header: only digests differ


def _listed(fields: dict[str, object], *, named: bool = True) -> str:
    return ", ".join(f"{name} {value}" if named else str(value) for name, value in fields.items())


def _title(headers: list[Header]) -> str:
    """The call's name, as in "all_reduce call 3", without the name where that is disputed."""
    names = {header.collective for header in headers}
    call = f"call {headers[0].call}"
    return f"{names.pop()} {call}" if len(names) == 1 else call
