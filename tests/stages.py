"""The course's tests in stages, the cheapest first, with a table of the seconds they took.

    python tests/stages.py test [STAGE …]    all stages, or those named: what `make test` runs
    python tests/stages.py check [SLUG …]    all about some chapters; without SLUG, about those
                                             that differ from the last commit
    python tests/stages.py cpus [SLUG …]     unit tests and chapters as other processors compute

The first stage that fails ends the run. A budget that is passed is marked, and fails nothing.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TIMES = ROOT / ".times"  # pytest's own record of each stage
# Folders of tests/: the chapters' slugs, and the rooms that all chapters share.
ROOMS = sorted({path.parent.name for path in ROOT.glob("tests/*/test_*.py")})
SLUGS = sorted(
    {path.stem[3:] for path in ROOT.glob("course/[0-9][0-9]_*.ipynb")}
    | {room for room in ROOMS if (ROOT / "companion" / room / "__init__.py").exists()}
    - {"bench", "data", "language", "measure", "training"}
)
SANITISE = "tests/course/nbval_sanitise.cfg"
# Seconds of wall time; where two workers share the tests, half of what a room's tests took.
ROOM_BUDGETS = {"unit": 60, "site": 20, "chapters": 90}
CHECK_BUDGET = 300
THREE_CHAPTERS, FURTHER_CHAPTER = 12 * 60, 138

PYTEST = [sys.executable, "-m", "pytest"]
# Two processes, each with whole files of tests; they share the cores (see conftest.py).
TWO_WORKERS = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]

LEVELS = ["DEFAULT", "AVX2", "AVX512"]  # torch's names for what a processor can do
# What decides which kernels compute. OpenBLAS serves NumPy, the others torch, so that one run can
# stand for one setting of each. The number: which of LEVELS the processor must be able to do.
CPUS = [
    ({"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}, 1),
    ({"OPENBLAS_CORETYPE": "Zen", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}, 1),
    (
        {
            "OPENBLAS_CORETYPE": "Nehalem",
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OMP_NUM_THREADS": "1",
        },
        0,
    ),
    ({"OPENBLAS_CORETYPE": "SkylakeX", "ATEN_CPU_CAPABILITY": "avx512"}, 2),
]


@dataclass
class Stage:
    """Commands that run one after the other, and the variables that they are given."""

    name: str
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    budget_s: float | None = None
    workers: int = 1
    seconds: float = 0.0
    status: int | None = None

    def run(self) -> int:
        """Exit status of the first command that fails, or 0."""
        start, status = time.monotonic(), 0
        given = "".join(f" {key}={value}" for key, value in self.environment.items())
        print(f"\n── {self.name}{given}", flush=True)
        for command in self.commands:
            record = TIMES / f"{self.name}.xml"
            extra = [f"--junitxml={record}"] if command[:3] == PYTEST else []
            status = subprocess.run(
                [*command, *extra], cwd=ROOT, env={**os.environ, **self.environment}, check=False
            ).returncode
            if status:
                break
        self.seconds, self.status = time.monotonic() - start, status
        return status


# What is run


def chapters(slugs: list[str]) -> list[str]:
    """Paths of the notebooks of these chapters, of all without ``slugs``."""
    found = sorted(ROOT.glob("course/[0-9][0-9]_*.ipynb"))
    return [f"course/{path.name}" for path in found if not slugs or path.stem[3:] in slugs]


def lint() -> Stage:
    ruff = str(Path(sys.executable).with_name("ruff"))
    return Stage("lint", [[ruff, "check", "."], [ruff, "format", "--check", "."]])


def run_chapters(slugs: list[str], name: str = "chapters", **environment: str) -> list[Stage]:
    """Strict nbval; side by side when there are several, so none may assume two free cores."""
    paths = chapters(slugs)
    together = ["-n", "2", "--dist", "loadfile"] if len(paths) > 1 else []
    limits = ["--timeout", "900", "--nbval-kernel-startup-timeout", "300"]  # for hangs
    command = [*PYTEST, "--nbval", *paths, "--nbval-sanitize-with", SANITISE, *limits, *together]
    workers = 2 if together else 1
    return [Stage(name, [command], environment, workers=workers)] if paths else []


def everything() -> list[Stage]:
    """All tests of all chapters."""
    form = [*PYTEST, "-q", "tests/course/test_chapter_rules.py"]
    unit = [*PYTEST, *TWO_WORKERS, "tests", "companion", "--doctest-modules", "-m", "not browser"]
    return [
        lint(),
        Stage("form", [form]),
        Stage("unit", [unit], workers=2),
        Stage("book", [[sys.executable, "jupyter_book/build.py"]], budget_s=90),
        Stage("site", [[*PYTEST, "tests/site", "-m", "browser"]]),
        *run_chapters([]),
    ]


def one_chapter(slugs: list[str]) -> list[Stage]:
    """All tests about these chapters, and no others: ``--chapter`` is an option of conftest.py."""
    rooms = [f"{top}/{slug}" for slug in slugs for top in ("tests", "companion")]
    rooms = [room for room in rooms if (ROOT / room).is_dir()]
    only = [word for slug in slugs for word in ("--chapter", slug)]
    unit = [*PYTEST, *TWO_WORKERS, *rooms, "tests/course", "--doctest-modules", *only]
    stages = [lint(), Stage("unit", [[*unit, "-m", "not browser"]], workers=2)]
    if chapters(slugs):
        site = [*PYTEST, "tests/site", "-m", "browser", *only]
        stages += [
            Stage("book", [[sys.executable, "jupyter_book/build.py"]]),
            Stage("site", [site]),
            *run_chapters(slugs),
        ]
    return stages


def other_processors(slugs: list[str]) -> list[Stage]:
    """Unit tests and chapters with the kernels of each processor; what takes long with one."""
    import torch

    level = LEVELS.index(torch.backends.cpu.get_cpu_capability())
    rooms = slugs or sorted(p.name for p in (ROOT / "tests").iterdir() if computes(p))
    tests = [f"tests/{room}" for room in rooms]
    stages = []
    for number, (setting, needed) in enumerate(CPUS, start=1):
        if needed > level:
            words = " ".join(f"{key}={value}" for key, value in setting.items())
            print(f"not here, for want of {LEVELS[needed]}: {words}", flush=True)
            continue
        command = [*PYTEST, *TWO_WORKERS, *tests, "-m", "not slow" if stages else "not browser"]
        kernels = [sys.executable, "tests/kernels.py"]
        stages.append(Stage(f"unit-{number}", [kernels, command], setting, workers=2))
        stages += run_chapters(slugs, f"chapters-{number}", **setting)
    lock = [*PYTEST, "tests/house/test_lock.py"]
    return [*stages, Stage("lock files", [lock], {"CHECK_LOCK_FILES": "1"})]


def computes(room: Path) -> bool:
    """Whether a folder of tests is about numbers, and not about files, pages or commands."""
    return any(room.glob("test_*.py")) and room.name not in ("bench", "course", "house", "site")


def changed() -> list[str]:
    """Chapters with a file that differs from the last commit."""
    git = ["git", "-c", "core.quotepath=off"]
    listings = (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    names = [
        name
        for listing in listings
        for name in subprocess.check_output([*git, *listing], cwd=ROOT, text=True).splitlines()
    ]
    owners = {name: room_of(name) for name in names}
    shared = [name for name, owner in owners.items() if owner not in SLUGS]
    if shared:
        print(f"of no chapter, left to `make test`: {' '.join(shared)}", flush=True)
    return sorted({owner for owner in owners.values() if owner in SLUGS})


# What it took


def room_of(name: str) -> str | None:
    """The chapter, else the room, that a file, a test's class or a test's name belongs to."""
    words = re.findall(r"[a-z_]+", re.sub(r"\d\d_", " ", name))
    found = [word for word in words if word in SLUGS] or [word for word in words if word in ROOMS]
    return found[0] if found else None


def times(stage: str) -> Iterator[tuple[str, float]]:
    """Room and seconds of each test that a stage ran."""
    record = TIMES / f"{stage}.xml"
    if record.exists():
        for case in ElementTree.parse(record).iter("testcase"):
            words = f"{case.get('classname')} {case.get('name')}"
            yield room_of(words) or "others", float(case.get("time", 0))


def table(stages: list[Stage], budget_s: float | None) -> str:
    """Seconds per stage, then per room; ``!`` marks what is over its budget."""

    def row(name: str, seconds: float, limit: float | None) -> str:
        of = f" of {limit:.0f}{' !' if seconds > limit else ''}" if limit else ""
        return f"  {name:<14}{seconds:7.0f} s{of}"

    lines = ["", "seconds per stage, and the budget on two quiet cores"]
    lines += [
        row(stage.name, stage.seconds, stage.budget_s) + " failed" * bool(stage.status)
        for stage in stages
    ]
    lines += [row("together", sum(stage.seconds for stage in stages), budget_s)]
    spent: dict[str, dict[str, float]] = defaultdict(dict)
    for stage in stages:
        for room, seconds in times(stage.name):
            seconds /= stage.workers
            spent[room][stage.name] = spent[room].get(stage.name, 0) + seconds
    budgets = {stage.name: ROOM_BUDGETS.get(stage.name.split("-")[0]) for stage in stages}
    columns = [name for name, limit in budgets.items() if limit]
    columns = [name for name in columns if any(name in row for row in spent.values())]
    if columns:
        lines += ["", "  ".join(["seconds per room", *(f"{name:>10}" for name in columns)])]
    for room, row_ in sorted(spent.items()):
        cells = []
        for name in columns:
            seconds = row_.get(name, 0)
            over = room in SLUGS and seconds > budgets[name]
            cells.append(f"{seconds:8.0f}{' !' if over else '  '}")
        lines.append(f"  {room:<14}  " + "  ".join(cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["test", "check", "cpus"])
    parser.add_argument("names", nargs="*", metavar="STAGE or SLUG")
    options = parser.parse_args(arguments)
    names, budget_s = options.names, None
    known = [stage.name for stage in everything()] if options.what == "test" else SLUGS
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"expected some of {' '.join(known)}, got {' '.join(unknown)}")
    if options.what == "test":
        stages = [stage for stage in everything() if not names or stage.name in names]
        further = max(0, len(chapters([])) - 3)
        budget_s = None if names else THREE_CHAPTERS + FURTHER_CHAPTER * further
    elif options.what == "cpus":
        stages = other_processors(names)
    else:
        names = names or changed()
        budget_s = CHECK_BUDGET * len(names)
        if not names:
            print("no chapter differs from the last commit; to check one: make check SLUG=lora")
            return 0
        stages = one_chapter(names)
    TIMES.mkdir(parents=True, exist_ok=True)
    for old in TIMES.glob("*.xml"):
        old.unlink()
    subprocess.run([sys.executable, "tests/kernels.py"], cwd=ROOT, check=True)
    status = next((status for stage in stages if (status := stage.run())), 0)
    ran = [stage for stage in stages if stage.status is not None]
    print(table(ran, budget_s), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
