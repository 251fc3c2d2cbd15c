"""What hostile submissions can do to a grading run: lose their own task, and nothing else.

A small assignment is graded once behind the fence and once without it. In one notebook the attacks
leave the kernel alive, in another each ends it. Every process that a run starts carries a mark in
its environment, by which the tests find, and end, what a run has left behind.
"""

import csv
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

COURSE = Path(__file__).parents[2] / "course" / "exercises"
GRADER = COURSE / "grader"
TASKS = [f"task_{number}" for number in range(10)]
ANSWER = "def {task}():\n    return 1"
TEST = (
    "assert {task}() == 1\n### BEGIN HIDDEN TESTS\nassert {task}() + 0 == 1\n### END HIDDEN TESTS"
)
MARK = "LC_GRADING_RUN"  # a name that the fence lets pass
MEMORY_GIB = 1
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SPY = """
import os
for path in {paths}:
    try:
        open(path, "a").write("changed")
    except OSError:
        pass
    print("sees", os.path.exists(path))
import sys
print([name for name in os.listdir(".") if name.endswith(".ipynb")])
files = [os.path.realpath(f"/proc/self/fd/{{name}}") for name in os.listdir("/proc/self/fd")]
print([name for name in files if name.endswith(".log")])
print(open("data.txt").read(), os.environ.get("TEACHERS_TOKEN"))
print(os.access(sys.prefix, os.W_OK), os.access(os.__file__, os.W_OK))
print(*(l.split()[1] for l in open("/proc/self/status") if l.startswith(("CapEff", "NoNewPrivs"))))
print(open("/proc/self/oom_score_adj").read().strip(), os.getppid())
open("written.txt", "w").write("mine")
"""
CALL = """
import socket
for family, place in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_UNIX, "\\0{name}")):
    with socket.socket(family) as line:
        line.settimeout(5)
        try:
            line.connect(place)
            print("connected")
        except OSError as error:
            print("refused", error)
"""
FILL = """
try:
    for number in range(20):
        open(f"/{place}/{{number}}", "wb").write(bytes(16 * 2**20))
except OSError as error:
    print("full:", error)
"""
DETACH = """
import subprocess
subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
"""
MULTIPLY = """
from comm import create_comm
create_comm("jupyter.widget", data={"state": {"_model_name": "Mine", "value": "w" * 1000}})
from IPython.display import update_display
for _ in range(400):
    display({"text/plain": "a"}, raw=True, display_id="same")
update_display({"text/plain": "b" * 80_000}, raw=True, display_id="same")
"""
FLOOD = """
for _ in range(500):
    print("x" * 1_000_000)
print("y" * 50_000_000)
display({"text/plain": "z" * 50_000_000}, raw=True)
def {task}():
    return 1
raise ValueError("e" * 50_000_000)
"""
THREADS = """
import threading
threading.stack_size(2**16)
end = threading.Event()
try:
    for _ in range(400):
        threading.Thread(target=end.wait).start()
finally:
    end.set()
"""
# The watcher looks five times a second: an attack that ends its kernel waits until it has looked.
SHARE = """
import mmap, time
shared, block = mmap.mmap(-1, 3 * 2**29), bytes(2**20)
for _ in range(3 * 2**9):
    shared.write(block)
time.sleep(20)
"""
FORK = """
import os, time
try:
    for _ in range(1000):
        if os.fork() == 0:
            time.sleep(600)
finally:
    time.sleep(20)
"""
SPAWN = """
import subprocess, time
for _ in range(300):
    subprocess.Popen(["sleep", "600"])
time.sleep(20)
"""
CROWD = """
import time
from ipykernel.connect import get_connection_file
for number in range(40):
    open(f"{get_connection_file()}.{number}", "wb").write(bytes(2**20))
time.sleep(20)
"""
TORRENT = """
from ipykernel.iostream import OutStream
from jupyter_client.session import Session
OutStream.write = OutStream.write.__globals__.get("write", OutStream.write)
Session.send = Session.send.__globals__.get("send", Session.send)
print("x" * 50_000_000, flush=True)
"""
KILL = "import os\nos.kill(os.getppid(), 9)"
DIE = "import os\ndef {task}():\n    os._exit(0)"


def tiny() -> nbformat.NotebookNode:
    """An assignment in nbgrader's form; the answers stand before the tests."""
    answers, tests = [], []
    for task in TASKS:
        answer = f"### BEGIN SOLUTION\n{ANSWER.format(task=task)}\n### END SOLUTION"
        answers.append(new_code_cell(answer, id=task, metadata=label(task)))
        test = TEST.format(task=task)
        tests.append(new_code_cell(test, id=f"{task}_test", metadata=label(f"{task}_test", 1)))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=answers + tests, metadata={"kernelspec": kernel})


def label(name: str, points: int = 0) -> dict:
    form = {"grade_id": name, "schema_version": 3, "task": False, "grade": bool(points)}
    form |= {"locked": bool(points), "solution": not points}
    return {"nbgrader": form | ({"points": points} if points else {})}


def hand_in(root: Path, student: str, *attacks: str) -> None:
    """Submit right answers, after an attack in each of the first cells."""
    nb = tiny()
    for cell, task, attack in zip(nb.cells, TASKS, attacks, strict=False):
        cell.source = attack if "def " in attack else f"{attack}\n{ANSWER.format(task=task)}"
    folder = root / "submitted" / student / "tiny"
    folder.mkdir(parents=True)
    nbformat.write(nb, folder / "tiny.ipynb")
    (folder / "data.txt").write_text("mine")


class Run:
    """A course in a folder of its own, and a grader for it."""

    def __init__(self, root: Path) -> None:
        self.root, self.mark, self.printed = root, uuid.uuid4().hex, ""
        (root / "source" / "tiny").mkdir(parents=True)
        nbformat.write(tiny(), root / "source" / "tiny" / "tiny.ipynb")

    def start(self, *options: str, **environment: str) -> subprocess.Popen:
        script = [sys.executable, str(GRADER / "classroom.py"), "grade", "--root", str(self.root)]
        environment = os.environ | {MARK: self.mark, "TEACHERS_TOKEN": "secret"} | environment
        return subprocess.Popen(
            [*script, *options],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def grade(self, *options: str, **environment: str) -> int:
        with self.start(*options, **environment) as grader:
            try:
                self.printed = grader.communicate(timeout=500)[0]
            finally:
                grader.kill()
        return grader.returncode

    def rows(self) -> dict[str, dict]:
        with (self.root / "grades" / "tiny.csv").open(encoding="utf-8") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    def points(self, student: str) -> list[int]:
        row = self.rows()[student]
        return [int(row[task]) for task in TASKS]

    def outputs(self, student: str) -> list[str]:
        """What each answer cell of a student printed or raised."""
        nb = nbformat.read(self.root / "autograded" / student / "tiny" / "tiny.ipynb", 4)
        outputs = [cell.outputs for cell in nb.cells if cell.id in TASKS]
        return ["".join(out.get("text", out.get("evalue", "")) for out in outs) for outs in outputs]

    def left_behind(self) -> list[psutil.Process]:
        """What this run started and has not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def clear(self) -> None:
        for process in self.left_behind():
            process.kill()


def gone(run: Run, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while run.left_behind() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not run.left_behind()


@pytest.fixture(scope="module")
def fence():
    """Skips a test where the system forbids namespaces; a container does, as a rule."""
    code = "import fence; print(fence.why_not_fenced())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=GRADER, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.strip():
        pytest.skip(f"kernels cannot be fenced here: {done.stdout.strip()}")


@pytest.fixture(scope="module")
def attacked(fence, tmp_path_factory):
    """A class of attackers and one honest student, graded behind the fence."""
    run = Run(tmp_path_factory.mktemp("attacked"))
    (run.root / "secret").write_text("the teacher's")
    names = ("secret", "gradebook.db", "source", "submitted/honest", "autograded", "grading.log")
    spy = SPY.format(paths=[str(run.root / name) for name in names])
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{run.mark}")
        for line in (tcp, abstract):
            line.listen()
            line.settimeout(0)
        run.lines = tcp, abstract
        call = CALL.format(port=tcp.getsockname()[1], name=run.mark)
        fills = FILL.format(place="tmp"), FILL.format(place="dev/shm")
        limits = "block = bytes(2**31)", "files = [open('/dev/null') for _ in range(2000)]"
        grow = "open('big', 'wb').truncate(2**29)"
        hand_in(run.root, "honest")
        begin, flood = f"{DETACH}\n{MULTIPLY}", FLOOD.replace("{task}", TASKS[9])
        hand_in(run.root, "patient", *limits, grow, THREADS, *fills, call, spy, begin, flood)
        hand_in(run.root, "violent", SHARE, FORK, CROWD, KILL, DIE.format(task=TASKS[4]))
        hand_in(run.root, "torrent", TORRENT)
        try:
            run.status = run.grade("--memory", str(MEMORY_GIB))
            yield run
        finally:
            run.clear()


def test_each_attack_loses_its_own_task_and_nothing_else(attacked):
    assert attacked.status == 0, attacked.printed
    assert "WARNING" not in attacked.printed
    assert {row["problem"] for row in attacked.rows().values()} == {""}
    assert attacked.points("honest") == [1] * 10
    assert attacked.points("patient") == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    # The parent that a kernel sees is no process of ours; what it may end is its own kernel.
    violent = attacked.points("violent")
    assert violent[:3] + violent[4:] == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_limits_of_memory_files_and_processes_are_errors_of_the_cell(attacked):
    touch, opens, grow, threads, disk, shared, *_ = attacked.outputs("patient")
    assert touch == ""  # MemoryError has no text
    assert "Too many open files" in opens
    assert "File too large" in grow
    assert "can't start new thread" in threads
    assert "No space left" in disk
    assert "No space left" in shared
    share, fork, crowd, *_ = attacked.outputs("violent")
    assert share == fork == f"It used more than {MEMORY_GIB} GiB of memory."
    assert crowd == "It wrote where only its sockets belong."


def test_a_kernel_has_no_network(attacked):
    refused = attacked.outputs("patient")[6].splitlines()
    assert [line.split()[0] for line in refused] == ["refused", "refused"]
    for line in attacked.lines:
        with pytest.raises(BlockingIOError):
            line.accept()


def test_a_kernel_sees_its_own_files_and_nothing_else(attacked):
    seen = attacked.outputs("patient")[7].splitlines()
    assert seen[:-6] == ["sees False"] * 6
    notebooks, log, own, writable, rights, process = seen[-6:]
    assert (notebooks, log, own) == ("[]", "[]", "mine None")
    assert (writable, rights) == ("False False", f"{0:016x} 1")
    # The first to go when the machine's memory is used up; and it sees no parent.
    assert process == "1000 0"
    assert (attacked.root / "secret").read_text() == "the teacher's"


def test_the_course_is_hidden_even_in_a_folder_with_the_python(fence, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "run").mkdir()
    code = f"""
import subprocess, sys, fence
from pathlib import Path
sys.prefix = {str(COURSE.parents[1])!r}
look = ["ls", {str(COURSE.parents[1] / "companion" / "__init__.py")!r}, {str(COURSE.parent)!r}]
folder = Path({str(tmp_path)!r})
subprocess.run(fence.fence(folder, 1, look), cwd=folder / "run", check=True, timeout=60)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=GRADER, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    package, empty, course = done.stdout.splitlines()
    assert package.endswith("__init__.py")
    assert (empty, course) == ("", f"{COURSE.parent}:")


def test_nothing_that_a_kernel_started_outlives_it(attacked):
    assert gone(attacked), attacked.left_behind()


def test_a_flood_is_cut_and_costs_nothing(attacked):
    printed = attacked.outputs("patient")[9]
    assert 100_000 <= printed.count("x") < 101_000
    assert len(printed) < 120_000  # with the error, which is cut as well
    for path in attacked.root.glob("*/*/tiny/tiny.*"):
        assert path.stat().st_size < 1_000_000, path
        assert "w" * 1000 not in path.read_text()  # what a widget holds


def test_what_a_tampered_kernel_sends_is_not_taken_in(attacked):
    assert attacked.points("torrent") == [0] + [1] * 9
    assert "x" * 1000 not in attacked.outputs("torrent")[0]


def test_a_kernel_ends_with_a_grader_that_is_killed(fence, tmp_path):
    run = Run(tmp_path)
    hand_in(run.root, "sleeper", f"{DETACH}\nimport time\ntime.sleep(600)")
    with run.start("--timeout", "600") as grader:
        try:
            deadline = time.monotonic() + 100
            while not any(process.name() == "sleep" for process in run.left_behind()):
                assert time.monotonic() < deadline
                assert grader.poll() is None, grader.stdout.read()
                time.sleep(0.2)
            grader.kill()
            assert gone(run), run.left_behind()
        finally:
            grader.kill()
            run.clear()


@pytest.mark.parametrize(("workers", "memory"), [("2", "0.1"), ("0", "4")])
def test_too_little_is_refused(tmp_path, workers, memory):
    run = Run(tmp_path)
    assert run.grade("--workers", workers, "--memory", memory) == 2
    assert f"--memory of at least 0.5, got {workers} and {memory}" in run.printed


def test_without_a_fence_one_warning_and_everyone_else_is_graded(tmp_path):
    refuses = tmp_path / "bin" / "unshare"
    refuses.parent.mkdir()
    refuses.write_text("#!/bin/sh\necho unshare failed: not here >&2\nexit 1\n")
    refuses.chmod(0o755)
    run = Run(tmp_path / "course")
    hand_in(run.root, "assassin", KILL)
    hand_in(run.root, "careless", "block = bytes(2**31)", SHARE, SPAWN, DETACH)
    hand_in(run.root, "honest")
    path = f"{refuses.parent}:{os.environ['PATH']}"
    try:
        # One worker: who comes after a killed one needs another.
        assert run.grade("--memory", str(MEMORY_GIB), "--workers", "1", PATH=path) == 1
        assert gone(run), run.left_behind()
    finally:
        run.clear()
    assert run.printed.count("WARNING") == 1
    assert "without a fence: unshare failed: not here" in run.printed
    assert run.points("honest") == [1] * 10
    assert run.points("careless") == [0] * 3 + [1] * 7
    assert run.outputs("careless")[2] == "It started more than 256 processes."
    assert "the grader was killed" in run.rows()["assassin"]["problem"]
