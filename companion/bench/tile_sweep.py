"""The fastest tile of every pass and head width on this GPU: how rows of the table are measured.

``python -m companion.bench flash --device cuda --sweep`` prints rows for
``companion.flash.triton.tuning``. Tiles are compiled side by side, each by running its pass once in
a process of its own, which leaves the machine code in Triton's cache; then one process times them
all, for two that share the GPU would time each other.

Chapter: course/09_flash.ipynb.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple, get_args

import torch

from companion.flash.masks import Window
from companion.flash.triton import tuning
from companion.flash.triton.tuning import Generation, Pass, Tile, generation_of

__all__ = ["Job", "candidates", "fastest_rows", "jobs", "shared_bytes", "sweep"]

BATCH, HEADS, LENGTH = 4, 16, 4096
DECODED_KEYS, PARTS = 32768, 16
SHARED_LIMIT = {"ampere": 99 * 1024, "hopper": 227 * 1024}  # bytes of one program
ROWS = {"forward": (64, 128), "dkdv": (64, 128), "dq": (64, 128), "decode": (16,)}
COLUMNS = {"forward": (64, 128), "dkdv": (64, 128), "dq": (32, 64), "decode": (32, 64, 128)}
STAGES = {"forward": (2, 3, 4), "dkdv": (1, 2), "dq": (1, 3), "decode": (2, 3, 5)}


class Job(NamedTuple):
    """One tile of one row of the table."""

    pass_: Pass
    width: int
    tile: Tile


def jobs(generation: Generation) -> list[Job]:
    """All that a sweep times."""
    return [
        Job(pass_, width, tile)
        for pass_, width in product(get_args(Pass), tuning.WIDTHS)
        for tile in candidates(pass_, width, generation)
    ]


def candidates(pass_: Pass, width: int, generation: Generation) -> list[Tile]:
    """Tiles worth a trial for two bytes an element: the table's own, and all that fit.

    Example:
        >>> len(candidates("forward", 64, "hopper")), len(candidates("forward", 256, "hopper"))
        (24, 6)
    """
    warps = (4,) if pass_ == "decode" else (4, 8)
    tiles = map(
        Tile, *zip(*product(ROWS[pass_], COLUMNS[pass_], warps, STAGES[pass_]), strict=True)
    )
    limit = SHARED_LIMIT[generation]
    fitting = [tile for tile in tiles if shared_bytes(pass_, width, tile) <= limit]
    # A dictionary keeps the order, and one of each.
    return list(dict.fromkeys([tuning.HALF[pass_, width, generation], *fitting]))


def shared_bytes(pass_: Pass, width: int, tile: Tile, *, element_bytes: int = 2) -> int:
    """Shared memory that a program needs at most: what stays, and what passes by in stages.

    Queries stay (with ∂out beside them in dq), keys and values pass by; in dkdv the other way.
    """
    stays, passes = tile.block_m, tile.block_n
    if pass_ == "dkdv":
        stays, passes = passes, stays
    kept = stays * (2 if pass_ in ("dkdv", "dq") else 1)
    return element_bytes * width * (kept + 2 * tile.stages * passes)


def sweep() -> Iterator[str]:
    """Rows for the table, as they are found.

    Raises:
        RuntimeError: The GPU is older than Ampere.
    """
    generation = generation_of(torch.cuda.get_device_capability())
    todo = jobs(generation)
    processors = getattr(os, "sched_getaffinity", None)
    workers = len(processors(0)) if processors else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        obstacles = list(pool.map(_obstacle, todo, [generation] * len(todo)))
    usable = [job for job, obstacle in zip(todo, obstacles, strict=True) if not obstacle]
    tally = Counter(obstacle or "run" for obstacle in obstacles)
    yield f"# {torch.cuda.get_device_name()}, tiles: {dict(tally)}"
    yield from fastest_rows({job: _milliseconds(job, generation) for job in usable}, generation)


def fastest_rows(milliseconds: Mapping[Job, float], generation: Generation) -> Iterable[str]:
    """A row for the best tile of each pass and width, with its time and that of today's row.

    Example:
        >>> today, other = tuning.HALF["dq", 64, "hopper"], Tile(64, 64, 4, 1)
        >>> times = {Job("dq", 64, today): 3.0, Job("dq", 64, other): 2.5}
        >>> print(*fastest_rows(times, "hopper"), sep="\\n")
        ("dq", 64, "hopper"): Tile(64, 64, 4, 1),  # 2.500 ms; Tile(128, 64, 8, 3): 3.000 ms
    """
    for pass_, width in dict.fromkeys((job.pass_, job.width) for job in milliseconds):
        times = {
            job.tile: time
            for job, time in milliseconds.items()
            if (job.pass_, job.width) == (pass_, width)
        }
        best, today = min(times, key=times.__getitem__), tuning.HALF[pass_, width, generation]
        before = f"{times[today]:.3f} ms" if today in times else "does not run"
        yield (
            f'("{pass_}", {width}, "{generation}"): {_row(best)},  # {times[best]:.3f} ms'
            + ("" if best == today else f"; {_row(today)}: {before}")
        )


def _row(tile: Tile) -> str:
    return f"Tile({', '.join(map(str, tile))})"


def _obstacle(job: Job, generation: Generation) -> str:
    """What keeps this tile from being compiled and run; after "" it lies in Triton's cache."""
    try:
        with _in_the_table(job, generation):
            _call(job, batch=1)()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:  # ours, not the tile's
        raise
    except Exception as error:  # of many kinds: registers, shared memory, the compiler's passes
        return type(error).__name__
    return ""


def _milliseconds(job: Job, generation: Generation) -> float:
    """Of one call. The two backward passes are timed together: the other one stays as it is."""
    from triton.testing import do_bench

    with _in_the_table(job, generation):
        return do_bench(_call(job), warmup=10, rep=50, return_mode="median")


@contextmanager
def _in_the_table(job: Job, generation: Generation) -> Iterator[None]:
    """While the context lasts, this is the tile of its row."""
    from companion.flash.triton.launch import settings_of

    row = (job.pass_, job.width, generation)
    before = tuning.HALF[row]
    tuning.HALF[row] = job.tile
    settings_of.cache_clear()
    try:
        yield
    finally:
        tuning.HALF[row] = before
        settings_of.cache_clear()


def _call(job: Job, *, batch: int = BATCH, device: str = "cuda") -> Callable[[], object]:
    from companion.flash.triton.launch import triton_backward, triton_decode, triton_forward

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    scale = job.width**-0.5
    if job.pass_ == "decode":
        q = normal(batch, HEADS, job.width)
        k, v = (normal(batch, HEADS, DECODED_KEYS, job.width) for _ in range(2))
        return lambda: triton_decode(q, k, v, None, splits=PARTS, scale=scale)
    q, k, v, grad_out = (normal(batch, HEADS, LENGTH, job.width) for _ in range(4))
    setting = {"window": Window(), "scale": scale}
    if job.pass_ == "forward":
        return lambda: triton_forward(q, k, v, **setting)
    out, lse = triton_forward(q, k, v, **setting)
    return lambda: triton_backward(grad_out, None, q, k, v, out, lse, **setting)
