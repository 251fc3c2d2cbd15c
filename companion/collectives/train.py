"""Train on one process or on many, with the result of one; stop at any time and carry on.

    python -m companion.collectives.train
    torchrun --nproc-per-node 4 -m companion.collectives.train --data text --zero 2
    torchrun --nnodes 2 --nproc-per-node 8 … -m companion.collectives.train --algorithm hierarchical

The same command carries on from the last checkpoint in --out, to the same bits as a run that was
never stopped. On another number of ranks, with another --algorithm or --zero, it carries on too,
to the same numbers but for rounding. If a rank is lost, the others stop and say which one.

Chapter: course/11_collectives.ipynb.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from companion.collectives.halving_doubling import halving_doubling_all_reduce
from companion.collectives.hierarchical import hierarchical_all_reduce
from companion.collectives.parameter_server import parameter_server_all_reduce
from companion.collectives.recipe.step import OPTIMIZERS, GatheredState, TrainingStep
from companion.collectives.recipe.tasks import MODELS, DigitsTask, Task, TextTask, make_model
from companion.collectives.ring import ring_all_reduce
from companion.collectives.shared_memory import shared_memory_all_reduce
from companion.collectives.tree import tree_all_reduce
from companion.collectives.wire.peers import PeerLost
from companion.training import fit
from companion.training.arguments import at_least, between, recipe_arguments
from companion.training.process_group import check_alike, is_first, process_group, say
from companion.training.run_record import Settings

__all__ = ["ALGORITHMS", "main", "run_from_shell"]

ALGORITHMS: dict[str, Callable[..., Any]] = {
    "ring": ring_all_reduce,
    "tree": tree_all_reduce,
    "halving_doubling": halving_doubling_all_reduce,
    "parameter_server": parameter_server_all_reduce,
    "hierarchical": hierarchical_all_reduce,
    "shared_memory": shared_memory_all_reduce,
}
# What decides a run's numbers. More --steps carry a finished run on.
SETTINGS = ("data", "model", "batch_size", "optimizer", "learning_rate", "dtype", "seed")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train as the command line asks, on every rank of the group.

    Returns:
        ``loss`` of every step, those before a restart included, and what the task measures on
        held-out data: ``accuracy`` or ``nats_per_byte``.

    Raises:
        FloatingPointError: If the loss is not finite.
        PeerLost: If a rank is gone.
        ValueError: If settings do not fit each other, the other ranks' or the checkpoint's.
    """
    options = _parser().parse_args(arguments)
    _complete(options)
    with process_group(options.device, timeout_s=options.timeout_s, alone=True) as device:
        if options.batch_size < distributed.get_world_size():
            raise ValueError(
                f"expected a batch of at least {distributed.get_world_size()} rows, one for "
                f"every rank, got --batch-size {options.batch_size}"
            )
        return _run(options, device)


def run_from_shell() -> int:
    """``main``, with the exit status and the words for someone who lost a rank."""
    try:
        main()
    except PeerLost as error:
        print(f"{error}\nThe same command carries on from the last checkpoint.", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    checkpoint = options.out / "checkpoint.safetensors"
    settings = Settings({name: getattr(options, name) for name in SETTINGS}, checkpoint)
    done = 0 if options.fresh else settings.check()
    check_alike(vars(options) | {"steps in the checkpoint": done})
    task, model = _task_and_model(options, device)
    step = TrainingStep(
        task,
        model,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        zero=options.zero,
        bucket_bytes=options.bucket_bytes,
        reduce=ALGORITHMS[options.algorithm],
    )
    ranks = distributed.get_world_size()
    say(
        f"{ranks} rank{'s' * (ranks > 1)}, {options.algorithm}, ZeRO stage {options.zero}: "
        f"{options.model} with {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"step {done} of {options.steps}"
    )
    history = _fit(step, model, settings, options)
    measured = task.held_out(model)
    if is_first():
        # Copies, since ZeRO's weights are views of one row.
        weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        save_file(weights, options.out / "model.safetensors")
    if step.memory:
        bytes_of = ", ".join(f"{name} {n:,}" for name, n in step.memory._asdict().items())
        say(f"bytes on rank 0: {bytes_of}")
    say("held out: " + ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
    return history | measured


def _task_and_model(options: argparse.Namespace, device: torch.device) -> tuple[Task, nn.Module]:
    dtype = getattr(torch, options.dtype)
    if options.data == "digits":
        task: Task = DigitsTask(dtype=dtype, device=device)
    else:
        task = TextTask(device=device)
    return task, make_model(options.model, seed=options.seed).to(device, dtype)


def _fit(
    step: TrainingStep, model: nn.Module, settings: Settings, options: argparse.Namespace
) -> dict[str, list[float]]:
    if is_first():
        options.out.mkdir(parents=True, exist_ok=True)
        if options.fresh:  # else a run killed before its first save would continue the old one
            settings.checkpoint.unlink(missing_ok=True)
    draws = torch.Generator().manual_seed(options.seed)
    optimizer = GatheredState(step.optimizer)

    def numbered(i: int) -> Tensor:
        loss = step(torch.randint(step.task.rows, (options.batch_size,), generator=draws))
        if (i + 1) % options.checkpoint_every == 0 or i + 1 == options.steps:  # fit saves next
            optimizer.gather()
        return loss

    return fit(
        numbered,
        steps=options.steps,
        state={"model": model, "optimizer": optimizer, "settings": settings},
        generators={"draws": draws},
        checkpoint=settings.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=not options.fresh,
        save=is_first(),
        progress=is_first() and not options.quiet,
    )


def _complete(options: argparse.Namespace) -> None:
    models = MODELS[options.data]
    options.model = options.model or models[0]
    if options.model not in models:
        raise ValueError(
            f"expected --model {' or '.join(models)} for --data {options.data}, got {options.model}"
        )
    if options.zero and options.algorithm != "ring":
        raise ValueError(
            f"expected --algorithm ring for --zero {options.zero}, which is made of the ring's two "
            f"halves, got {options.algorithm}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m companion.collectives.train",
        description="Train on one process, or under torchrun on many, with the result of one. "
        "Stop at any time: the same command carries on from its last checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", choices=MODELS, default="digits", help="the Python reference is the text")
    add("--model", choices=sum(MODELS.values(), ()), help="mlp or cnn for digits, transformer")
    recipe_arguments(parser, steps=300, checkpoint_every=50, out="collectives_run")
    add("--batch-size", type=at_least(1), default=120, help="of all ranks together")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help=" ")
    add("--learning-rate", type=between(0, math.inf), default=3e-3, help=" ")
    add("--algorithm", choices=ALGORITHMS, default="ring", help="of the all-reduce")
    add("--zero", type=int, choices=(0, 1, 2), default=0, help="stage; 0 is plain data parallelism")
    add("--bucket-bytes", type=at_least(1), default=25 * 2**20, help="gradients sent together")
    add("--dtype", choices=("float32", "float64"), default="float32", help="of the weights")
    add(
        "--timeout-s",
        type=between(0, math.inf),
        default=120.0,
        help="how long a rank waits for another one",
    )
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(run_from_shell())
