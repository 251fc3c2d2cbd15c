"""The recipe, whose rank RANK ends itself with SIGKILL when it comes to its N-th backward.

python interrupted_training.py N RANK ARGUMENTS OF THE RECIPE …
"""

import os
import signal
import sys

import torch

from companion.collectives import train


def main(n: str, rank: str) -> int:
    torch.set_num_threads(1)
    backward, calls = torch.Tensor.backward, []

    def dies(loss: torch.Tensor) -> None:
        calls.append(loss)
        if len(calls) == int(n) and os.environ["RANK"] == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        backward(loss)

    torch.Tensor.backward = dies
    return train.run_from_shell()


if __name__ == "__main__":
    _, n, rank, *sys.argv[1:] = sys.argv
    sys.exit(main(n, rank))
