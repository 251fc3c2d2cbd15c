"""What the ranks of one launch do for the tests of the training recipe."""

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file

from companion.collectives.train import ALGORITHMS, main
from tests.collectives.ranks_training import message

ALIKE = ["--quiet", "--batch-size", "7"]  # no multiple of 2: the ranks' parts differ
EXACT = [*ALIKE, "--dtype", "float64", "--steps", "5", "--bucket-bytes", "3000"]
MODELS = {
    "mlp": ["--data", "digits", "--optimizer", "sgd", "--learning-rate", "0.1"],
    "cnn": ["--data", "digits", "--model", "cnn", "--optimizer", "adam"],
    "transformer": ["--data", "text", "--checkpoint-every", "2"],
}
MODEL_STAGES = [("mlp", 0), ("mlp", 1), ("mlp", 2), ("cnn", 0), ("cnn", 1), ("transformer", 2)]
WHOLE = [*ALIKE, "--bucket-bytes", "3000", "--checkpoint-every", "4", "--steps", "10"]


def train_cases(rank, world_size, folder):
    torch.set_num_threads(1)
    folder = Path(folder)
    cases = {
        "models": {
            (name, zero): trained(
                folder / f"{name}-{zero}", *EXACT, *MODELS[name], "--zero", str(zero)
            )
            for name, zero in MODEL_STAGES
        },
        "algorithms": {
            name: trained(folder / name, *EXACT, *MODELS["mlp"], "--algorithm", name)
            for name in ALGORITHMS
        },
        "whole": {
            zero: trained(folder / f"whole-{zero}", *WHOLE, "--zero", str(zero)) for zero in (0, 2)
        },
        "continued": continued(folder),
        "errors": errors(rank, folder),
    }
    return pickle.dumps(cases)  # tensors by value


def trained(out, *arguments):
    """What main returned, and the weights in the file it wrote."""
    history = main([*arguments, "--out", str(out)])
    torch.distributed.barrier()  # rank 0 writes
    return history, load_file(out / "model.safetensors")


def continued(folder):
    """Four steps, then six more: the same run in two parts."""
    out = folder / "continued"
    for steps in ("4", "10"):
        result = trained(out, *WHOLE, "--zero", "2", "--steps", steps)
    return result


def errors(rank, folder):
    """Each is raised on every rank."""
    own = ["--learning-rate", "0.1" if rank == 0 else "0.2"]
    burst = ["--optimizer", "sgd", "--learning-rate", "1e38", "--checkpoint-every", "1"]
    cases = {
        "ranks": ["--out", str(folder / "ranks"), *own],
        "batch": ["--out", str(folder / "batch"), "--batch-size", "1"],
        "settings": ["--out", str(folder / "whole-0"), "--seed", "3"],
        "steps": ["--out", str(folder / "whole-0"), "--steps", "9"],
        "model": ["--data", "text", "--model", "cnn"],
        "algorithm": ["--zero", "1", "--algorithm", "tree"],
        "finite": ["--out", str(folder / "finite"), *burst],
    }
    return {name: message(lambda a=a: main([*WHOLE, *a])) for name, a in cases.items()}
