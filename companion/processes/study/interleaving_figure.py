"""The drawing of a race, step by step: who did what, each one's private copy, the counter.

Chapter: course/10_processes.ipynb.  Dimension key: W workers.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from companion.processes.lost_update import Step

__all__ = ["describe_interleaving", "draw_interleaving"]

PALETTE = sns.color_palette("colorblind")
_TINTS = [sns.light_palette(PALETTE[i], 10)[4] for i in (0, 1, 2)]  # black words stay readable
_GREY, _LOSS = "0.9", tuple(0.75 * part for part in PALETTE[3])


def draw_interleaving(history: Sequence[Step], step: int) -> Figure:
    """The first ``step`` steps of a race, one row per worker and one for the counter.

    The newest step has a thick edge; a store that throws updates away is dark and says so.

    Args:
        history: ``RaceResult.interleaving``.
        step: How many steps have been done, in [0, len(history)].

    Raises:
        ValueError: If the step is out of its range.
    """
    _check_step(history, step)
    workers = _workers(history)
    figure, axes = plt.subplots(
        figsize=(1.6 + 0.5 * len(history), 0.6 * workers + 1.5), layout="constrained"
    )
    counters = [0, *(done.counter for done in history[:step])]
    for number, done in enumerate(history):
        if number >= step:
            _draw_cell(axes, number, done.worker, "", _GREY)
            continue
        newest, lost = number == step - 1, _lost(done, counters[number])
        words = [done.action, *([] if done.local is None else [str(done.local)])]
        color = _TINTS[done.worker % len(_TINTS)] if done.action != "waits" else "white"
        if lost:
            words.append(f"{lost} lost")
            color = _LOSS
        _draw_cell(axes, number, done.worker, "\n".join(words), color, newest=newest)
        _draw_cell(axes, number, workers, str(done.counter), "white", newest=newest)
    names = [f"worker {worker}" for worker in range(workers)]
    axes.set(
        xlim=(-0.1, len(history) + 0.1),
        ylim=(workers + 1.05, -0.1),  # downwards, as the table is read
        xticks=[n + 0.5 for n in range(len(history))],
        yticks=[row + 0.5 for row in range(workers + 1)],
        yticklabels=[*names, "counter"],
        xlabel="step",
        title=f"private copies: {_hands(history, step)}",
    )
    axes.set_xticklabels(range(1, len(history) + 1))
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)
    return figure


def describe_interleaving(history: Sequence[Step], step: int) -> str:
    """What ``draw_interleaving`` shows, in words.

    Example:
        >>> from companion.processes.lost_update import race
        >>> history = race(1, workers=2, lock=False).interleaving
        >>> print(describe_interleaving(history, 6))  # doctest: +NORMALIZE_WHITESPACE
        Step 6 of 6: worker 1 stores 1, which throws away 1 update.
        Copies: worker 0 has 1, worker 1 has 1. Counter 1.
    """
    _check_step(history, step)
    if step == 0:
        return f"Before the first of {len(history)} steps. Nobody has a copy. Counter 0."
    done = history[step - 1]
    before = history[step - 2].counter if step > 1 else 0
    lost = _lost(done, before)
    did = {
        "load": f"loads {done.local}",
        "add": "adds 1 to its copy",
        "store": f"stores {done.local}",
        "waits": "waits for the lock",
    }[done.action]
    if lost:
        did += f", which throws away {lost} update{'s' if lost > 1 else ''}"
    return (
        f"Step {step} of {len(history)}: worker {done.worker} {did}. "
        f"Copies: {_hands(history, step)}. Counter {done.counter}."
    )


def _lost(step: Step, before: int) -> int:
    """How many earlier updates this step overwrites: all that came since it loaded."""
    return before + 1 - step.counter if step.action == "store" else 0


def _hands(history: Sequence[Step], step: int) -> str:
    copies = dict.fromkeys(range(_workers(history)))
    copies |= {done.worker: done.local for done in history[:step] if done.local is not None}
    return ", ".join(
        f"worker {worker} has {'no copy' if copy is None else copy}"
        for worker, copy in copies.items()
    )


def _workers(history: Sequence[Step]) -> int:
    return max(done.worker for done in history) + 1


def _check_step(history: Sequence[Step], step: int) -> None:
    if not 0 <= step <= len(history):
        raise ValueError(f"step must be in [0, {len(history)}], got {step}")


def _draw_cell(
    axes: Axes, column: int, row: int, text: str, color: object, *, newest: bool = False
) -> None:
    edge = {"ec": "black", "lw": 2.5} if newest else {"ec": "0.7", "lw": 0.8}
    axes.add_patch(Rectangle((column + 0.04, row + 0.06), 0.92, 0.88, fc=color, **edge))
    axes.text(
        column + 0.5,
        row + 0.5,
        text,
        ha="center",
        va="center",
        linespacing=1.05,
        fontsize="medium" if text.isdigit() else "x-small",
        color="white" if color is _LOSS else "black",
    )
