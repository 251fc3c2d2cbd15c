"""Release, grade and solve the course's exercises; behind `make exercises` and `make grade`.

    python classroom.py release              source/ -> release/: the students' notebooks
    python classroom.py grade                submitted/STUDENT/SLUG/SLUG.ipynb
                                             -> feedback/ (HTML), grades/SLUG.csv, gradebook.db
    python classroom.py solutions            source/ -> solutions/, without the hidden tests

Name one or more slugs to handle only those assignments. `grade` exits with 1 when a
submission could not be graded; all the others are graded all the same.
"""

import argparse
import codecs
import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import unicodedata
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

import nbformat
from fence import why_not_fenced
from marks import Graded, earlier, summary, write_grades
from nbgrader.converters import (
    Autograde,
    GenerateAssignment,
    GenerateFeedback,
    NbGraderException,
)
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config, PyFileConfigLoader
from traitlets.log import get_logger

HERE = Path(__file__).resolve().parents[1]  # course/exercises
STUDENT_NAME = re.compile(r"[\w.@][\w.@ -]*")
LARGEST_MB = 50  # of a notebook; a larger one is not even copied
# Not UTF-8 as notebooks are, or with a mark before it; the longer ones first.
OTHER_ENCODINGS = {
    codecs.BOM_UTF8: "UTF-8 with a byte-order mark",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
HIDDEN_TESTS = re.compile(r"^ *### BEGIN HIDDEN TESTS.*?^ *### END HIDDEN TESTS\n?", re.M | re.S)
SOLUTION_MARKS = re.compile(r"^ *(###|<!--) (BEGIN|END) SOLUTION( -->)?\n?", re.M)

NOT_FENCED = """\
WARNING: submissions run without a fence: {}.
They have your rights, and the network. Only the memory, the files and the time of a kernel are
limited. See "The fence" in course/teachers.md for a container that grades with it."""
STOPPED = ("CellTimeoutError", "Stopped")  # grading.py leaves one of these in such a cell


class Limits(NamedTuple):
    """What a submission may use, and whether its kernel is fenced in."""

    timeout: int | None = None  # seconds for one cell
    memory_gib: float = 4.0
    fenced: bool = False


def settings(root: Path, slug: str, student: str = "*", limits: Limits | None = None) -> Config:
    """nbgrader's configuration for one assignment of the course in ``root``."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(HERE)).load_config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.db_url = f"sqlite:///{root}/gradebook.db?timeout=60"
    config.CourseDirectory.assignment_id = slug
    config.CourseDirectory.student_id = student
    if limits:
        config.FencedKernel.memory_gib = limits.memory_gib
        config.FencedKernel.fenced = limits.fenced
        config.ExecuteAll.timeout = limits.timeout or config.ExecuteAll.timeout
    return config


def convert(converter: type, config: Config) -> None:
    """Run one of nbgrader's steps, replacing what an earlier run left."""
    course = CourseDirectory(config=config)
    step = converter(coursedir=course, config=config)
    step.force = True
    step.start()


def release(root: Path, slug: str, *, record: bool) -> None:
    """Write the students' version; ``record`` also enters the tasks in the gradebook."""
    config = settings(root, slug)
    if not record:
        config.SaveCells.enabled = False
        config.GenerateAssignment.no_database = True
    try:
        convert(GenerateAssignment, config)
    except NbGraderException as error:
        raise SystemExit(
            f"{slug}: the student version could not be written; see {root / 'grading.log'}.\n"
            "If tasks came or went since grading began, remove gradebook.db (it holds the marks\n"
            "that were given by hand) and grade again."
        ) from error


def solve(root: Path, slug: str) -> Path:
    """Write the solutions: the source without hidden tests and without nbgrader's marks."""
    nb = nbformat.read(root / "source" / slug / f"{slug}.ipynb", as_version=4)
    for cell in nb.cells:
        cell.metadata.pop("nbgrader", None)
        cell.source = SOLUTION_MARKS.sub("", HIDDEN_TESTS.sub("", cell.source)).rstrip("\n")
    target = root / "solutions" / f"{slug}.ipynb"
    target.parent.mkdir(exist_ok=True)
    nbformat.write(nb, target)
    return target


def submission(root: Path, slug: str, student: str) -> Path:
    """Where a student's notebook has to be."""
    return root / "submitted" / student / slug / f"{slug}.ipynb"


def unreadable(path: Path) -> str:
    """Why the file at ``path`` cannot be graded, in one line; empty when it can."""
    folder, slug = path.parent.parent, path.parent.name
    for part in (folder, path.parent, *path.parent.rglob("*")):
        if part.is_symlink() or (part.exists() and not (part.is_dir() or part.is_file())):
            return f"{part.name} is a link or a device; hand in files"
    # Without combining marks, which belong to letters: in ë written as two characters, in प्रिया.
    letters = "".join(c for c in folder.name if unicodedata.category(c)[0] != "M")
    if not STUDENT_NAME.fullmatch(letters):
        return "the folder's name may hold letters, digits, spaces and . _ - @ only"
    if not path.is_file():
        found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.ipynb"))
        return f"no {slug}/{path.name}; found {', '.join(found)[:200] or 'no notebook'}"
    if (size := path.stat().st_size) > LARGEST_MB * 1e6:
        return f"{path.name} has {size / 1e6:.0f} MB, more than the {LARGEST_MB} that are graded"
    with path.open("rb") as file:
        start = file.read(4)
    if other := next((OTHER_ENCODINGS[m] for m in OTHER_ENCODINGS if start.startswith(m)), ""):
        return f"{path.name} is saved as {other}; notebooks are UTF-8"
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f"{path.name} is not a readable notebook ({type(error).__name__})"
    except nbformat.ValidationError as error:
        return f"{path.name} is not a valid notebook ({error.message:.80})"
    return ""


def grade_one(root: Path, slug: str, student: str, limits: Limits) -> Graded:
    """Grade one submission and write its feedback; never raises."""
    start = time.monotonic()
    problem, note = unreadable(submission(root, slug, student)), ""
    if not problem:
        config = settings(root, slug, student, limits)
        get_logger().addHandler(reason := LastError())
        try:
            convert(Autograde, config)
            convert(GenerateFeedback, config)
            note = stopped_cells(root / "autograded" / student / slug / f"{slug}.ipynb")
        except Exception as error:  # one student's notebook must not stop the class
            get_logger().exception("%s could not be graded", student)
            problem = f"{reason.text or repr(error):.160}; see grading.log"
        finally:
            get_logger().removeHandler(reason)
    if problem:
        for step in ("autograded", "feedback"):
            shutil.rmtree(root / step / student / slug, ignore_errors=True)
    return Graded(student, problem, note, time.monotonic() - start)


class LastError(logging.Handler):
    """Keeps the last line of the last traceback: nbgrader logs the cause and raises another."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        lines = record.getMessage().strip().splitlines()
        if lines and lines[0].startswith("Traceback"):
            self.text = lines[-1]


def stopped_cells(path: Path) -> str:
    """The cells that ran into the timeout or ended their kernel, for the teacher's eye."""
    names = [
        cell.metadata.get("nbgrader", {}).get("grade_id", "a cell of the student's own")
        for cell in nbformat.read(path, as_version=4).cells
        if any(out.get("ename") in STOPPED for out in cell.get("outputs", []))
    ]
    return f"stopped: {', '.join(names)}" if names else ""


class Lanes:
    """Graders side by side, each a process that grades one submission after another.

    A grader that is killed costs nobody but the student whose code it ran, at the second time.
    """

    def __init__(self, count: int, log: Path) -> None:
        self.count, self.log, self.free = count, log, SimpleQueue()
        for _ in range(count):
            self.free.put(self._open())

    def _open(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), initializer=start, initargs=(self.log,))

    def grade(self, root: Path, slug: str, student: str, limits: Limits) -> Graded:
        """`grade_one` in the next grader that is free."""
        lane = self.free.get()
        try:
            for _ in range(2):
                try:
                    return lane.submit(grade_one, root, slug, student, limits).result()
                except BrokenProcessPool:
                    lane = self._open()
            return Graded(student, "the grader was killed while it ran this notebook")
        finally:
            self.free.put(lane)

    def close(self) -> None:
        """End the graders, once they are free."""
        for _ in range(self.count):
            self.free.get().shutdown()


def collect(futures: dict[str, Future]) -> list[Graded]:
    """What became of each student's submission, with a line for each as it ends."""
    graded = []
    for student, future in futures.items():
        try:
            graded.append(future.result())
        except Exception as error:  # say, no process can be started any more
            graded.append(Graded(student, f"the grader ended early ({error!r:.60})"))
        print(progress(graded[-1]), flush=True)
    return graded


def progress(one: Graded) -> str:
    """One line for one student."""
    return f"  {one.student:<24} {one.seconds:5.1f} s  {one.problem or one.note or 'graded'}"


def log_to(path: Path) -> None:
    """nbgrader's own messages go to a file; the terminal is for the summary."""
    logger = get_logger()
    logger.handlers[:] = [logging.FileHandler(path, encoding="utf-8", delay=True)]
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def start(log: Path) -> None:
    """Begin a grader: what it prints on stderr goes to the log; it ends when `main` does."""
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    log_to(log)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["release", "grade", "solutions"])
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="assignments; default: all")
    parser.add_argument("--student", action="append", help="grade only this student; repeatable")
    parser.add_argument("--timeout", type=int, help="seconds for one cell; default: 30")
    parser.add_argument("--memory", type=float, default=4, help="GiB for one kernel; default: 4")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--root", type=Path, default=HERE, help="the folder that holds source/")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    known = sorted(path.parent.name for path in root.glob("source/*/*.ipynb"))
    unknown = sorted(set(options.slugs) - set(known))
    if unknown:
        parser.error(f"expected an assignment of {known}, got {unknown}")
    if options.workers < 1 or options.memory < 0.5:
        got = f"{options.workers} and {options.memory:g}"
        parser.error(f"expected --workers of at least 1 and --memory of at least 0.5, got {got}")
    log_to(root / "grading.log")
    # nbgrader starts `alembic` by its bare name, which lies beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    slugs = options.slugs or known
    if options.action == "grade":
        return grade(root, slugs, options)
    for slug in slugs:
        if options.action == "release":
            release(root, slug, record=False)
            print(f"release/{slug}/{slug}.ipynb")
        else:
            print(solve(root, slug).relative_to(root))
    return 0


def grade(root: Path, slugs: list[str], options: argparse.Namespace) -> int:
    """Grade several submissions side by side; 1 if one could not be graded."""
    classes: dict[str, list[str]] = {}
    for slug in slugs:
        students = class_of(root, slug)
        if chosen := [name for name in students if name in (options.student or students)]:
            release(root, slug, record=True)
            classes[slug] = chosen
        else:
            print(f"{slug}: nothing to grade in submitted/STUDENT/{slug}/")
    if reason := why_not_fenced():
        print(NOT_FENCED.format(reason), file=sys.stderr, flush=True)
    limits = Limits(options.timeout, options.memory, fenced=not reason)
    with tempfile.TemporaryDirectory() as scratch:  # IPython's and the kernels' files
        os.environ |= {"IPYTHONDIR": scratch, "JUPYTER_RUNTIME_DIR": scratch, "TMPDIR": scratch}
        os.environ["OMP_NUM_THREADS"] = "1"  # one core for each notebook
        lanes = Lanes(options.workers, root / "grading.log")
        with contextlib.closing(lanes), ThreadPoolExecutor(options.workers) as pool:
            futures = {
                slug: {s: pool.submit(lanes.grade, root, slug, s, limits) for s in students}
                for slug, students in classes.items()
            }
            return max([report(root, slug, collect(f)) for slug, f in futures.items()], default=0)


def class_of(root: Path, slug: str) -> list[str]:
    """Names of the students who handed something in, or tried to.

    A folder in another case, a notebook beside its folder and an empty folder are such trials. A
    student who handed in other assignments only is not among them.
    """
    students = [path for path in root.glob("submitted/*") if path.is_dir()]
    return sorted(student.name for student in students if _tried(student, slug))


def _tried(student: Path, slug: str) -> bool:
    inside = {path.name.casefold() for path in student.iterdir() if not path.name.startswith(".")}
    return not inside or bool(inside & {slug, f"{slug}.ipynb"})


def report(root: Path, slug: str, graded: list[Graded]) -> int:
    """Write and print the marks of one assignment; 1 if a submission could not be graded.

    The table shows the whole class; who was not chosen keeps the word of the run before.
    """
    target = root / "grades" / f"{slug}.csv"
    before, new = earlier(target), Graded("", "not graded yet")
    chosen = {one.student for one in graded}
    others = [
        before.get(name, new._replace(student=name))
        for name in class_of(root, slug)
        if name not in chosen
    ]
    db_url = settings(root, slug).CourseDirectory.db_url
    print(summary(slug, write_grades(target, db_url, slug, sorted(graded + others))))
    print(f"grades/{slug}.csv, feedback/STUDENT/{slug}/{slug}.html")
    return int(any(one.problem for one in graded))


if __name__ == "__main__":
    sys.exit(main())
