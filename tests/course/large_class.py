"""Grade a large class with some attackers in it, and say what that costs.

    python tests/course/large_class.py --students 200 --workers 2

Every student hands in the reference solution; ten of them put an attack before their first answer.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.course import test_exercises as exercises
from tests.course import test_fence as attacks

LARGE_SHARE = attacks.SHARE.replace("3 * 2**", "10 * 2**")  # 5 GiB
HOSTILE = {
    "touches": "block = bytearray(5 * 2**30)",
    "shares": LARGE_SHARE,
    "forks": attacks.FORK,
    "crowds": attacks.CROWD,
    "kills": attacks.KILL,
    "dies": "import os\nos._exit(0)",
    "fills": attacks.FILL.replace("{place}", "tmp").replace("{{", "{").replace("}}", "}"),
    "detaches": attacks.DETACH,
    "floods": attacks.FLOOD.partition("def ")[0],
    "torrent": attacks.TORRENT,
}


def hand_in(root: Path, slug: str, students: int) -> None:
    """The reference from everyone, with an attack in the first answer of the hostile ones."""
    shutil.copytree(exercises.COURSE / "source", root / "source")
    first, *_ = exercises.tasks(slug)
    right = exercises.cell(exercises.source(slug), first).source
    for name, attack in HOSTILE.items():
        exercises.submit(root, name, slug, exercises.answered(slug, {first: f"{attack}\n{right}"}))
    for number in range(students - len(HOSTILE)):
        exercises.submit(root, f"student{number:03}", slug, exercises.source(slug))


def watch(grader: subprocess.Popen) -> tuple[int, int]:
    """Peak of the resident memory: of the graders, and of them with all kernels."""
    first, graders, everyone = psutil.Process(grader.pid), 0, 0
    while grader.poll() is None:
        sizes = {True: 0, False: 0}
        for process in [first, *first.children(recursive=True)]:
            try:
                ours = "ipykernel" not in " ".join(process.cmdline())
                sizes[ours] += process.memory_info().rss
            except psutil.Error:
                continue
        graders, everyone = max(graders, sizes[True]), max(everyone, sum(sizes.values()))
        time.sleep(0.5)
    return graders, everyone


def main() -> int:
    """The command line; returns the grader's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slug", default=exercises.SAMPLE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, begin = Path(name), time.monotonic()
        hand_in(root, options.slug, options.students)
        command = exercises.command(root, "grade", options.slug, "--workers", str(options.workers))
        with subprocess.Popen(command) as grader:
            graders, everyone = watch(grader)
        disk = sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
    print(
        f"{options.students} submissions: {time.monotonic() - begin:.0f} s; at most "
        f"{graders / 2**20:.0f} MiB in the graders, {everyone / 2**20:.0f} MiB with the kernels; "
        f"{disk / 2**20:.0f} MiB on disk"
    )
    return grader.returncode


if __name__ == "__main__":
    sys.exit(main())
