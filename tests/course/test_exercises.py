"""The exercises as a class meets them: released, answered rightly and wrongly, graded.

One run of the grader marks a whole synthetic class. Student `wrong-k` holds the k-th wrong
answer of every task, so that all wrong answers pass through the real pipeline together.
"""

import copy
import csv
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import nbformat
import pytest

COURSE = Path(__file__).parents[2] / "course" / "exercises"
SLUGS = sorted(path.parent.name for path in COURSE.glob("source/*/*.ipynb"))
WRONG = {
    slug: runpy.run_path(str(Path(__file__).parent / "wrong_answers" / f"{slug}.py"))["WRONG"]
    for slug in SLUGS
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.DOTALL)
SOLUTION = re.compile(
    r"(?:###|<!--) BEGIN SOLUTION.*?\n(.*?) *(?:###|<!--) END SOLUTION", re.DOTALL
)


def classroom(root, *arguments, status=0):
    """Run classroom.py as `make exercises` and `make grade` do."""
    command = [sys.executable, str(COURSE / "classroom.py"), *arguments, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def read(path):
    return nbformat.read(path, as_version=4)


def source(slug):
    return read(COURSE / "source" / slug / f"{slug}.ipynb")


def cell(nb, cell_id):
    return next(c for c in nb.cells if c.id == cell_id)


def label(c):
    return c.metadata.get("nbgrader", {})


def tasks(slug):
    """Points of each autograded task, in order: the task's name is that of its answer cell."""
    return {
        c.id.removesuffix("_test"): label(c)["points"]
        for c in source(slug).cells
        if label(c).get("grade") and not label(c)["solution"]
    }


def written(slug):
    return [c.id for c in source(slug).cells if label(c).get("grade") and label(c)["solution"]]


def submit(root, student, slug, nb):
    path = root / "submitted" / student / slug / f"{slug}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(nb if isinstance(nb, str) else nbformat.writes(nb), encoding="utf-8")


def answered(slug, answers):
    """The reference solution with some of its answers exchanged."""
    nb = copy.deepcopy(source(slug))
    for task, code in answers.items():
        cell(nb, task).source = code
    return nb


def a_wrong_answer(slug, task):
    return next(iter(WRONG[slug][task].values()))


def careless(slug):
    """Test and set-up cells deleted, edited, moved; an answer copied; a warning; an error."""
    first, second, third, *_ = tasks(slug)
    nb = answered(slug, {second: a_wrong_answer(slug, second)})
    cell(nb, f"{second}_test").source = "pass"
    right = cell(nb, third)
    draft = copy.deepcopy(right)
    draft.id, draft.source = "draft", a_wrong_answer(slug, third)
    nb.cells.insert(nb.cells.index(right), draft)
    right.source = f"import warnings\n{right.source}\nwarnings.warn('careful')\n1 / 0"
    nb.cells = [c for c in nb.cells if c.id not in ("expect", f"{first}_test")]
    nb.cells.insert(0, nb.cells.pop(nb.cells.index(cell(nb, f"{third}_test"))))
    return nb


def reckless(slug):
    """A loop that an interrupt ends, one that it does not, a dead kernel, an exit."""
    stubborn = (
        "import time\nwhile True:\n    try:\n        time.sleep(9)\n"
        "    except BaseException:\n        pass"
    )
    hazards = ["while True:\n    pass", stubborn, "import os\nos._exit(0)", "exit()"]
    return answered(slug, dict(zip(tasks(slug), hazards, strict=False)))


def tamperer(slug):
    """A checker made silent; an exit by exception; in the last task, a checker made blind."""
    first, second, *_, last = tasks(slug)
    silent = "\nexpect = lambda *arguments, **keywords: None"
    blind = "\ntorch.isclose = lambda *arguments, **keywords: torch.tensor(True)"
    wrong = {task: a_wrong_answer(slug, task) for task in (first, second, last)}
    wrong[first] += silent
    wrong[second] += "\nraise SystemExit"
    wrong[last] += blind
    return answered(slug, wrong)


class Class:
    """The graded class of one assignment."""

    def __init__(self, root, slug):
        self.root, self.slug = root, slug
        classroom(root, "release", slug)
        self.released = read(root / "release" / slug / f"{slug}.ipynb")
        assert not (root / "gradebook.db").exists()
        submit(root, "reference", slug, source(slug))
        submit(root, "untouched", slug, self.released)
        for k in range(max(map(len, WRONG[slug].values()))):
            chosen = {t: list(w.values())[k] for t, w in WRONG[slug].items() if k < len(w)}
            submit(root, f"wrong-{k}", slug, answered(slug, chosen))
        submit(root, "Zoë O. careless", slug, careless(slug))
        submit(root, "reckless", slug, reckless(slug))
        submit(root, "tamperer", slug, tamperer(slug))
        submit(root, "torn", slug, nbformat.writes(source(slug))[:500])
        submit(root, "foreign", slug, nbformat.writes(nbformat.v4.new_notebook()))
        submit(root, "[glob", slug, source(slug))
        submit(root, "renamed", slug, source(slug))
        folder = root / "submitted" / "renamed" / slug
        (folder / f"{slug}.ipynb").rename(folder / "Untitled1.ipynb")
        self.printed = classroom(root, "grade", slug, "--timeout", "12", status=1)

    @property
    def grades(self):
        with (self.root / "grades" / f"{self.slug}.csv").open(encoding="utf-8") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    def scores(self, student):
        return {task: float(self.grades[student][task]) for task in tasks(self.slug)}

    def autograded(self, student):
        return read(self.root / "autograded" / student / self.slug / f"{self.slug}.ipynb")

    def feedback(self, student):
        path = self.root / "feedback" / student / self.slug / f"{self.slug}.html"
        return path.read_text(encoding="utf-8")

    def error(self, student, cell_id):
        outputs = cell(self.autograded(student), cell_id).outputs
        return next((out for out in outputs if out.output_type == "error"), None)


@pytest.fixture(scope="module", params=SLUGS)
def graded(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("class")
    shutil.copytree(COURSE / "source", root / "source")
    return Class(root, request.param)


def expected_scores(slug, without=()):
    return {task: 0 if task in without else points for task, points in tasks(slug).items()}


@pytest.mark.parametrize("slug", SLUGS)
def test_the_source_is_clean_and_complete(slug):
    nb = source(slug)
    assert nb.metadata.kernelspec.name == "python3"
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert len(tasks(slug)) >= 4
    assert written(slug)
    for c in nb.cells:
        assert set(c.metadata) <= {"nbgrader"}
        assert label(c).get("grade_id", c.id) == c.id
        if c.cell_type == "code":
            assert c.outputs == []
            assert c.execution_count is None
    assert cell(nb, "expect").source == (COURSE / "expect.py").read_text().strip("\n")
    for task in tasks(slug):
        assert SOLUTION.search(cell(nb, task).source)
        assert HIDDEN.search(cell(nb, f"{task}_test").source)


@pytest.mark.parametrize("slug", SLUGS)
def test_each_task_has_at_least_three_wrong_answers(slug):
    assert set(WRONG[slug]) == set(tasks(slug))
    assert min(map(len, WRONG[slug].values())) >= 3


def test_the_release_holds_neither_solution_nor_hidden_test(graded):
    assert [c.id for c in graded.released.cells] == [c.id for c in source(graded.slug).cells]
    for given, made in zip(source(graded.slug).cells, graded.released.cells, strict=True):
        secrets = [*HIDDEN.findall(given.source), *SOLUTION.findall(given.source)]
        public = SOLUTION.sub("", HIDDEN.sub("", given.source))
        for line in "\n".join(secrets).splitlines():
            assert line.strip() in public or line.strip() not in made.source
        assert "HIDDEN" not in made.source
        assert "SOLUTION" not in made.source
        assert made.get("outputs", []) == []


def test_the_reference_gets_full_marks(graded):
    assert graded.scores("reference") == expected_scores(graded.slug)
    row = graded.grades["reference"]
    assert float(row["total"]) == sum(tasks(graded.slug).values())
    assert int(row["to mark"]) == len(written(graded.slug))
    assert (row["problem"], row["note"]) == ("", "")


def test_the_untouched_release_gets_nothing(graded):
    row = graded.grades["untouched"]
    assert set(graded.scores("untouched").values()) == {0}
    assert [float(row[name]) for name in written(graded.slug)] == [0] * len(written(graded.slug))
    for task in tasks(graded.slug):
        assert graded.error("untouched", f"{task}_test").ename in ("NotYet", "NameError")


def test_every_wrong_answer_gets_nothing_for_its_task(graded):
    for task, answers in WRONG[graded.slug].items():
        for k, mistake in enumerate(answers):
            assert graded.scores(f"wrong-{k}")[task] == 0, mistake
            if "package" in mistake:  # importing the finished function is refused
                assert graded.error(f"wrong-{k}", task).ename == "ModuleNotFoundError"
            else:  # caught by a check, and not because the answer does not run
                assert graded.error(f"wrong-{k}", task) is None, mistake
                assert graded.error(f"wrong-{k}", f"{task}_test").ename == "NotYet", mistake


def test_feedback_says_what_was_expected_what_came_and_a_hint(graded):
    page = graded.feedback("wrong-0")
    for task in tasks(graded.slug):
        text = graded.error("wrong-0", f"{task}_test").traceback
        parts = [line.split(":")[0].strip() for line in text]
        assert parts[1:] == ["expected", "came", "hint"], text
        assert text[0].startswith("✗ ")
        solution = SOLUTION.search(cell(source(graded.slug), task).source)[1]
        for line in filter(None, map(str.strip, solution.splitlines())):
            assert line not in "\n".join(text)
    assert "expected:" in page
    assert "HIDDEN TESTS" not in page


def test_feedback_loads_nothing_and_runs_no_script(graded):
    for path in graded.root.glob("feedback/*/*/*.html"):
        page = path.read_text(encoding="utf-8")
        assert "<script" not in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", page)
        assert "default-src 'none'" in page


def test_deleted_edited_and_moved_cells_are_put_back(graded):
    _, second, *_ = tasks(graded.slug)
    student = "Zoë O. careless"
    assert graded.scores(student) == expected_scores(graded.slug, without=[second])
    known = [c.id for c in graded.released.cells if "nbgrader" in c.metadata]
    kept = [label(c)["grade_id"] for c in graded.autograded(student).cells if label(c)]
    assert kept == known


def test_loops_exits_and_dead_kernels_cost_one_task_each(graded):
    hit = list(tasks(graded.slug))[:4]
    assert graded.scores("reckless") == expected_scores(graded.slug, without=hit)
    assert graded.grades["reckless"]["note"] == f"stopped: {', '.join(hit)}"
    assert "Stopped after 12 seconds" in graded.feedback("reckless")


def test_a_silenced_checker_gives_no_marks(graded):
    first, second, *_, last = tasks(graded.slug)
    expected = expected_scores(graded.slug, without=[first, second, last])
    assert graded.scores("tamperer") == expected


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        ("torn", "is not a readable notebook"),
        ("foreign", "no cell of this assignment is in the notebook"),
        ("renamed", "found Untitled1.ipynb"),
        ("[glob", "the folder's name may hold"),
    ],
)
def test_what_cannot_be_graded_is_one_line_with_the_name(graded, student, problem):
    assert problem in graded.grades[student]["problem"]
    assert graded.grades[student]["total"] == ""
    lines = [line for line in graded.printed.splitlines() if line.strip().startswith(student)]
    assert any(problem in line for line in lines)
    assert not (graded.root / "feedback" / student).exists()


def test_grading_again_keeps_the_marks_given_by_hand_and_changes_nothing_else(graded):
    before, essay = graded.grades, written(graded.slug)[0]
    with closing(sqlite3.connect(graded.root / "gradebook.db")) as book:
        changed = book.execute(
            """update grade set manual_score = 0.5
            where cell_id in (select id from base_cell where name = ? and type = 'GradeCell')
            and notebook_id in (select n.id from submitted_notebook n join submitted_assignment a
                                on n.assignment_id = a.id where a.student_id = 'reference')""",
            [essay],
        )
        assert changed.rowcount == 1
        book.commit()
    classroom(graded.root, "grade", graded.slug, "--student", "reference")
    row = before["reference"]
    row |= {essay: "0.5", "total": f"{float(row['total']) + 0.5:g}"}
    row |= {"to mark": str(int(row["to mark"]) - 1)}
    assert graded.grades == before


def test_the_solutions_run_and_show_no_hidden_test(graded):
    classroom(graded.root, "solutions", graded.slug)
    nb = read(graded.root / "solutions" / f"{graded.slug}.ipynb")
    text = "\n".join(c.source for c in nb.cells)
    assert "HIDDEN" not in text
    assert "SOLUTION" not in text
    assert "raise NotYet(" not in "".join(c.source for c in nb.cells if c.id != "expect")
    script = graded.root / "solutions.py"
    script.write_text("\n\n".join(c.source for c in nb.cells if c.cell_type == "code"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.count("✓") >= len(tasks(graded.slug))


def test_an_unknown_assignment_is_named(tmp_path):
    shutil.copytree(COURSE / "source", tmp_path / "source")
    command = [sys.executable, str(COURSE / "classroom.py"), "release", "waserstein"]
    done = subprocess.run(
        [*command, "--root", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "got ['waserstein']" in done.stderr
