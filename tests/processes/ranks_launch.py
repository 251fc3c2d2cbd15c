"""What the launched ranks of these tests run."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


class Odd(Exception):
    """Its constructor wants two arguments, its pickle offers one."""

    def __init__(self, first, second) -> None:
        super().__init__(f"{first} and {second}")


class Stubborn:
    """Can be pickled, but not unpickled."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ValueError("made to fail")


def who(rank, world_size):
    return rank, world_size, os.getpid()


def echo(rank, world_size, *args):
    return args


def scale_in_place(rank, world_size, tensor):
    tensor.mul_(rank)
    return tensor


def surroundings(rank, world_size):
    """All that a launch promises about where a rank finds itself."""
    import torch
    from torch import distributed

    seen = torch.tensor([rank, 1])
    distributed.all_reduce(seen)
    return {
        "sum": seen.tolist(),
        "rank": distributed.get_rank(),
        "world_size": distributed.get_world_size(),
        "backend": distributed.get_backend(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in ("RANK", "MASTER_PORT")},
        "path": list(sys.path),
        "folder": os.getcwd(),
        "listening": _listening(),
    }


def _listening():
    import psutil

    return [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]


def imports_torch(rank, world_size):
    return "torch" in sys.modules


def own_group(rank, world_size):
    """Ends the group itself, as a training script would."""
    from torch import distributed

    distributed.destroy_process_group()
    return rank


def end(rank, world_size, how):
    """Rank 1 ends in some way; the others take their time."""
    if rank != 1:
        time.sleep(0.2)
        return None
    return _ENDINGS[how]()


def end_while_others_wait(rank, world_size, how):
    """Rank 1 ends in some way, once all are here; the others wait for it in a collective."""
    from torch import distributed

    distributed.barrier()
    result = end(rank, world_size, how) if rank == 1 else None
    if rank != 1:
        distributed.barrier()
    return result


def wrong_shape(rank, world_size):
    """Rank 1 sends more than rank 0 has room for."""
    import torch
    from torch import distributed

    if rank == 1:
        distributed.send(torch.zeros(1000), 0)
    if rank == 0:
        distributed.recv(torch.zeros(3), 1)
    distributed.barrier()


def fail_late_and_early(rank, world_size):
    """Rank 0 is started first and fails last."""
    time.sleep(0.4 * (world_size - rank))
    raise ValueError(f"rank {rank} is not content")


def sleep_with_children(rank, world_size, folder):
    """Sleep for ever, with a process and threads of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    threading.Thread(target=time.sleep, args=(3600,)).start()
    with open(os.path.join(folder, f"{rank}"), "w") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    time.sleep(3600)


def leave_a_thread(rank, world_size):
    """Return while a thread that is no daemon still runs."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return rank


def add_to_shared(rank, world_size, shared):
    shared.tensor[rank] += 10 * (rank + 1)
    return shared.tensor.data_ptr() % 64


def hold_shared(rank, world_size, ours, folder):
    """Rank 1 shares with rank 0, then all are killed."""
    ours.tensor.fill_(rank + 1)
    sleep_with_children(rank, world_size, folder)


def make_shared(rank, world_size):
    from companion.processes.shared_array import SharedArray

    shared = SharedArray(3)
    shared.tensor.fill_(rank + 1)
    return shared


def _raise():
    raise ValueError("boom")


def _raise_odd():
    raise Odd("one", "two")


def _segfault():
    ctypes.string_at(0)


def _stop():
    os.kill(os.getpid(), signal.SIGSTOP)


_ENDINGS = {
    "raise": _raise,
    "raise odd": _raise_odd,
    "exit": lambda: sys.exit(3),
    "_exit": lambda: os._exit(5),
    "_exit 0": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": _segfault,
    "sleep": lambda: time.sleep(3600),
    "stop": _stop,
    "return": lambda: "here",
    "return a lambda": lambda: lambda: None,
    "return the stubborn": Stubborn,
}
