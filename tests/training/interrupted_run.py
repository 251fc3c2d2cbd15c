"""Small training runs that end themselves with SIGKILL where the test asks for it.

    python interrupted_run.py 'CHECKPOINT WEIGHTS step:N|write:N|never:0' …

Each run is a process of its own; its exit status is printed. All are forks of one that has imported
torch and computed nothing, for the imports take a hundred times as long as a run. A run uses
everything that a resume must bring back: dropout (PyTorch's global generator), a generator of its
own for batches, Python's and NumPy's global generators, Adam and a learning-rate schedule.
"""

import os
import random
import signal
import sys

import numpy as np
import torch
import torch._dynamo  # which torch.optim would import in every run
from safetensors.torch import save_file
from torch import nn

from companion.training import fit, whole_file

STEPS = 23


def main(checkpoint: str, weights: str, death: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = nn.Sequential(nn.Linear(5, 11), nn.Dropout(0.3), nn.ReLU(), nn.Linear(11, 3))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    rng = torch.Generator().manual_seed(7)
    place, _, number = death.partition(":")
    calls = {"step": 0, "write": 0}

    def die_at(here: str) -> None:
        calls[here] += 1
        if here == place and calls[here] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    def batch() -> torch.Tensor:
        return torch.randn(7, 5, generator=rng) + random.random() + np.random.rand()  # noqa: NPY002

    def step(i: int) -> dict[str, torch.Tensor]:
        x = batch()
        loss = model(x).square().mean()
        adam.zero_grad()
        loss.backward()
        die_at("step")  # between the gradient and the update
        adam.step()
        schedule.step()
        return {"loss": loss, "largest": x.max()}

    rename = os.replace

    def replace(source, target) -> None:
        die_at("write")  # the new file is complete, but has not taken the old one's place
        rename(source, target)

    whole_file.os.replace = replace
    history = fit(
        step,
        steps=STEPS,
        state={"model": model, "adam": adam, "schedule": schedule},
        generators={"batches": rng},
        checkpoint=checkpoint,
        checkpoint_every=4,
        progress=False,
    )
    rows = {k: torch.tensor(v, dtype=torch.float64) for k, v in history.items()}
    save_file({**model.state_dict(), **rows}, weights)


if __name__ == "__main__":
    for run in sys.argv[1:]:
        pid = os.fork()
        if pid == 0:
            main(*run.split())
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
