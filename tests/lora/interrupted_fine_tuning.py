"""The recipe, ended with SIGKILL where the test asks for it.

python interrupted_fine_tuning.py [log:N | checkpoint:N | never:0] ARGUMENTS OF THE RECIPE …
"""

import os
import signal
import sys

from companion.lora import train
from companion.lora.injection import lora_parameters
from companion.training import checkpoints
from companion.training.process_group import is_first
from companion.training.run_record import Log


def main(death: str, *arguments: str) -> None:
    place, _, number = death.partition(":")
    calls = {"log": 0, "checkpoint": 0}
    write_line, write_file, put_adapters = Log.write, checkpoints.save_file, train.add_lora

    def dies(here: str) -> bool:
        if not is_first():
            raise RuntimeError(f"a second process writes to the {here}")
        calls[here] += 1
        return here == place and calls[here] == int(number)

    def half_a_line(log: Log, line: dict) -> None:
        if dies("log"):
            with log.path.open("a") as file:
                file.write('{"step": 1')
            os.kill(os.getpid(), signal.SIGKILL)
        write_line(log, line)

    def new_file_not_in_place(*of_file, **options) -> None:
        write_file(*of_file, **options)
        if dies("checkpoint"):
            os.kill(os.getpid(), signal.SIGKILL)

    def another_start(model, **options):
        """The second of two processes, on a machine that rounds in another way."""
        put_adapters(model, **options)
        for parameter in lora_parameters(model):
            parameter.data += 0.1 * (not is_first())
        return model

    Log.write = half_a_line
    train.add_lora = another_start
    checkpoints.save_file = new_file_not_in_place
    train.main(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
