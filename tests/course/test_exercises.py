"""The exercises as a class meets them: released, answered rightly and wrongly, graded.

Three proofs, the cheapest for what there is most of:

- every wrong answer meets its test in this process, in a namespace as a new kernel has it;
- for every assignment the reference and one wrong answer to each task go through the real grader,
  and the wrong ones must end there in the very words that they end in here;
- what students do to a notebook or to its kernel concerns the grader and no assignment: `SAMPLE`
  alone stands for it.
"""

import contextlib
import copy
import csv
import functools
import html
import importlib
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import nbformat
import pytest

COURSE = Path(__file__).parents[2] / "course" / "exercises"
HELPERS = ("expect", "setup")  # ids of cells with what tests call
SLUGS = sorted(path.parent.name for path in COURSE.glob("source/*/*.ipynb"))
SAMPLE = "wasserstein"
WRONG = {
    slug: runpy.run_path(str(Path(__file__).parent / "wrong_answers" / f"{slug}.py"))["WRONG"]
    for slug in SLUGS
}
MISTAKES = [
    (slug, task, mistake)
    for slug in SLUGS
    for task, answers in WRONG[slug].items()
    for mistake in answers
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.DOTALL)
SOLUTION = re.compile(
    r"(?:###|<!--) BEGIN SOLUTION.*?\n(.*?) *(?:###|<!--) END SOLUTION", re.DOTALL
)


def command(root, *arguments):
    """What `make exercises` and `make grade` run."""
    script = COURSE / "grader" / "classroom.py"
    return [sys.executable, str(script), *arguments, "--root", str(root)]


def classroom(root, *arguments, status=0):
    done = subprocess.run(
        command(root, *arguments), capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def read(path):
    return nbformat.read(path, as_version=4)


@functools.cache
def source(slug):
    return read(COURSE / "source" / slug / f"{slug}.ipynb")


def cell(nb, cell_id):
    return next(c for c in nb.cells if c.id == cell_id)


def label(c):
    return c.metadata.get("nbgrader", {})


@functools.cache
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


def last_wrong_answers(slug):
    return {task: list(answers.values())[-1] for task, answers in WRONG[slug].items()}


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
    """An exit, a dead kernel, a loop that no interrupt ends, and one that an interrupt ends.

    The last one stands last because every new kernel runs it, and waits for it, again.
    """
    stubborn = (
        "import time\nwhile True:\n    try:\n        time.sleep(9)\n"
        "    except BaseException:\n        pass"
    )
    loop = "import time\nwhile True:\n    time.sleep(1)"
    hazards = ["exit()", "import os\nos._exit(0)", stubborn, loop]
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


SLIPS = [r"$$ f + g &\le C $$", r"$5 & the other $", "$^$"]


def slipped(slug):
    """The reference with formulas that no parser takes, and HTML that would leave the page."""
    nb = answered(slug, {})
    away = '<meta http-equiv="refresh" content="0; url=page"><base href="elsewhere">'
    nb.cells.append(nbformat.v4.new_markdown_cell("\n\n".join([*SLIPS, away])))
    return nb


def curious(slug):
    """The first answer fails in the hidden part of its test; a last cell prints what was run."""
    first, *_ = tasks(slug)
    right = cell(source(slug), first).source
    visible, _ = cell(source(slug), f"{first}_test").source.split("### BEGIN HIDDEN TESTS")
    fails = f"""
calls, right = [], {first}

def {first}(*args, **kwargs):
    calls.append(1)
    if len(calls) > {{most}}:
        raise ValueError("mine")
    return right(*args, **kwargs)
"""
    most = counted_calls(slug, right + fails.format(most="10**9"), visible)
    nb = answered(slug, {first: right + fails.format(most=most)})
    nb.cells.append(nbformat.v4.new_code_cell("print(In, _ih)"))
    return nb


def counted_calls(slug, answer, visible):
    """How many calls of the answer the visible part of its test makes."""
    with new_kernel() as run:
        for c in source(slug).cells:
            if c.cell_type == "code" and not (label(c)["solution"] or label(c)["grade"]):
                run(c.source)
        assert run(answer) is None
        assert run(visible.rstrip()) is None
        return int(str(run("raise ValueError(len(calls))")))


@contextlib.contextmanager
def new_kernel():
    """A function that runs cells in an empty namespace, with no module of the course loaded.

    It returns the error of a cell, or None. What was loaded before is put back at the end.
    """
    namespace = {"__name__": "__main__"}

    def run(code):
        try:
            exec(compile(code, "<cell>", "exec"), namespace)
        except Exception as error:  # whatever a student's code may raise
            return error
        return None

    def ours():
        return [name for name in sys.modules if name.split(".")[0] == "companion"]

    loaded = {name: sys.modules.pop(name) for name in ours()}
    try:
        yield run
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(loaded)


def attempt(slug, task, answer):
    """The errors of an answer and of its test when no other task has been answered."""
    nb = source(slug)
    with new_kernel() as run:
        for c in nb.cells:
            if c.cell_type == "code" and not (label(c)["solution"] or label(c)["grade"]):
                assert run(c.source) is None
        return run(answer), run(cell(nb, f"{task}_test").source)


class Course:
    """A folder with all assignments, their submissions and, once graded, the results."""

    def __init__(self, root):
        self.root, self.printed = root, ""
        shutil.copytree(COURSE / "source", root / "source")

    def released(self, slug):
        return read(self.root / "release" / slug / f"{slug}.ipynb")

    def grades(self, slug):
        with (self.root / "grades" / f"{slug}.csv").open(encoding="utf-8") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    def scores(self, slug, student):
        return {task: float(self.grades(slug)[student][task]) for task in tasks(slug)}

    def autograded(self, slug, student):
        return read(self.root / "autograded" / student / slug / f"{slug}.ipynb")

    def feedback(self, slug, student):
        path = self.root / "feedback" / student / slug / f"{slug}.html"
        return path.read_text(encoding="utf-8")

    def error(self, slug, student, cell_id):
        outputs = cell(self.autograded(slug, student), cell_id).outputs
        return next((out for out in outputs if out.output_type == "error"), None)


@pytest.fixture(scope="module")
def asked(request):
    """Assignments that the chosen tests look at: all, or one with ``--chapter``."""
    ours = [item for item in request.session.items if item.path == Path(__file__)]
    given = [item.callspec.params if hasattr(item, "callspec") else {} for item in ours]
    return sorted({params.get("slug", SAMPLE) for params in given})


@pytest.fixture(scope="module")
def released(tmp_path_factory, asked):
    """A course with every assignment released."""
    course = Course(tmp_path_factory.mktemp("class"))
    begin = time.monotonic()
    classroom(course.root, "release", *asked)
    course.seconds = time.monotonic() - begin
    assert not (course.root / "gradebook.db").exists()
    return course


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, released):
    """A course with one student, who ends or blocks kernels; graded beside the other tests.

    Its grader mostly waits, so it alone gets a short timeout. But `import torch` must pass it,
    and on a busy machine that takes longer, as releasing the course has just done.
    """
    course = Course(tmp_path_factory.mktemp("hostile"))
    submit(course.root, "reckless", SAMPLE, reckless(SAMPLE))
    course.timeout = min(60, max(10, round(2.5 * released.seconds)))
    grade = command(course.root, "grade", SAMPLE, "--timeout", str(course.timeout))
    with (
        (course.root / "printed").open("w") as file,
        subprocess.Popen(grade, stdout=file, stderr=file) as course.grader,
    ):
        yield course


@pytest.fixture(scope="module")
def course(released, asked, request):
    """The course of a class: every assignment released, answered and graded."""
    course, root = released, released.root
    for slug in asked:
        submit(root, "reference", slug, source(slug))
        submit(root, "wrong", slug, answered(slug, last_wrong_answers(slug)))
    if request.config.getoption("chapter"):
        classroom(root, "grade", *asked, "--timeout", "300")
        return course
    request.getfixturevalue("hostile")  # begins now, and is looked at last
    submit(root, "untouched", SAMPLE, course.released(SAMPLE))
    submit(root, "Zoë O. careless", SAMPLE, careless(SAMPLE))
    submit(root, "tamperer", SAMPLE, tamperer(SAMPLE))
    submit(root, "torn", SAMPLE, nbformat.writes(source(SAMPLE))[:500])
    submit(root, "foreign", SAMPLE, nbformat.writes(nbformat.v4.new_notebook()))
    submit(root, "[glob", SAMPLE, source(SAMPLE))
    submit(root, "renamed", SAMPLE, source(SAMPLE))
    folder = root / "submitted" / "renamed" / SAMPLE
    (folder / f"{SAMPLE}.ipynb").rename(folder / "Untitled1.ipynb")
    submit(root, "curious", SAMPLE, curious(SAMPLE))
    submit(root, "utf16", SAMPLE, nbformat.writes(source(SAMPLE)))
    path = root / "submitted" / "utf16" / SAMPLE / f"{SAMPLE}.ipynb"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16")
    submit(root, "marked", SAMPLE, "\ufeff" + nbformat.writes(source(SAMPLE)))
    submit(root, "huge", SAMPLE, " " * 60_000_000)
    submit(root, "linked", SAMPLE, source(SAMPLE))
    (root / "submitted" / "linked" / SAMPLE / "notes").symlink_to(root / "source")
    (root / "submitted" / "empty").mkdir()
    (root / "submitted" / "beside").mkdir()
    (root / "submitted" / "beside" / f"{SAMPLE}.ipynb").write_text("{}")
    (root / "submitted" / "capitals" / SAMPLE.upper()).mkdir(parents=True)
    submit(root, "प्रिया Zoe\u0308", SAMPLE, slipped(SAMPLE))
    course.printed = classroom(root, "grade", "--timeout", "300", status=1)
    return course


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


@pytest.mark.parametrize(("slug", "task"), [(slug, task) for slug in SLUGS for task in tasks(slug)])
def test_the_reference_answer_passes_on_its_own(slug, task):
    assert attempt(slug, task, cell(source(slug), task).source) == (None, None)


@pytest.mark.parametrize(("slug", "task", "mistake"), MISTAKES)
def test_a_wrong_answer_is_told_what_was_expected_what_came_and_a_hint(slug, task, mistake):
    in_answer, in_test = attempt(slug, task, WRONG[slug][task][mistake])
    if "package" in mistake:  # importing the finished function is refused
        assert isinstance(in_answer, ModuleNotFoundError)
        assert isinstance(in_test, NameError)
        return
    assert in_answer is None  # caught by a check, and not because the answer does not run
    assert type(in_test).__name__ == "NotYet", repr(in_test)
    text = in_test._render_traceback_()
    assert text[0].startswith("✗ ")
    assert [line.split(":")[0].strip() for line in text[1:]] == ["expected", "came", "hint"]
    for line in SOLUTION.findall(cell(source(slug), task).source)[0].splitlines():
        assert not line.strip() or line.strip() not in "\n".join(text)


@pytest.mark.parametrize("slug", SLUGS)
def test_the_release_holds_neither_solution_nor_hidden_test(course, slug):
    released = course.released(slug)
    assert [c.id for c in released.cells] == [c.id for c in source(slug).cells]
    for given, made in zip(source(slug).cells, released.cells, strict=True):
        secrets = [*HIDDEN.findall(given.source), *SOLUTION.findall(given.source)]
        public = SOLUTION.sub("", HIDDEN.sub("", given.source))
        for line in "\n".join(secrets).splitlines():
            assert line.strip() in public or line.strip() not in made.source
        assert "HIDDEN" not in made.source
        assert "SOLUTION" not in made.source
        assert made.get("outputs", []) == []


@pytest.mark.parametrize(("slug", "task"), [(slug, task) for slug in SLUGS for task in tasks(slug)])
def test_a_released_answer_cell_says_that_it_is_not_answered_yet(course, slug, task):
    in_answer, in_test = attempt(slug, task, cell(course.released(slug), task).source)
    assert in_answer is None
    assert (type(in_test).__name__, str(in_test)) == ("NotYet", "not answered yet")


@pytest.mark.parametrize("slug", SLUGS)
def test_the_reference_gets_full_marks(course, slug):
    assert course.scores(slug, "reference") == expected_scores(slug)
    row = course.grades(slug)["reference"]
    assert float(row["total"]) == sum(tasks(slug).values())
    assert int(row["to mark"]) == len(written(slug))
    assert (row["problem"], row["note"]) == ("", "")


@pytest.mark.parametrize("slug", SLUGS)
def test_wrong_answers_get_nothing_and_end_in_the_grader_as_they_end_here(course, slug):
    assert set(course.scores(slug, "wrong").values()) == {0}
    for task, answer in last_wrong_answers(slug).items():
        for place, here in zip((task, f"{task}_test"), attempt(slug, task, answer), strict=True):
            there = course.error(slug, "wrong", place)
            assert (there is None) == (here is None)
            if here is not None:
                assert (there.ename, there.evalue) == (type(here).__name__, str(here))


def test_the_untouched_release_gets_nothing(course):
    row = course.grades(SAMPLE)["untouched"]
    assert set(course.scores(SAMPLE, "untouched").values()) == {0}
    assert [float(row[name]) for name in written(SAMPLE)] == [0] * len(written(SAMPLE))
    for task in tasks(SAMPLE):
        assert course.error(SAMPLE, "untouched", f"{task}_test").ename == "NotYet"


@pytest.mark.parametrize("slug", SLUGS)
def test_the_feedback_page_shows_the_message_and_no_hidden_test(course, slug):
    page = course.feedback(slug, "wrong")
    for part in ("✗ ", "expected:", "came:", "hint:"):
        assert part in page
    assert "HIDDEN TESTS" not in page


def test_feedback_loads_nothing_and_runs_no_script(course):
    pages = list(course.root.glob("feedback/*/*/*.html"))
    assert len(pages) >= 2 * len(SLUGS)
    for path in pages:
        page = path.read_text(encoding="utf-8")
        assert "<script" not in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", page)
        assert "default-src 'none'" in page


def test_deleted_edited_and_moved_cells_are_put_back(course):
    _, second, *_ = tasks(SAMPLE)
    student = "Zoë O. careless"
    assert course.scores(SAMPLE, student) == expected_scores(SAMPLE, without=[second])
    known = [c.id for c in course.released(SAMPLE).cells if "nbgrader" in c.metadata]
    kept = [label(c)["grade_id"] for c in course.autograded(SAMPLE, student).cells if label(c)]
    assert kept == known


def test_hidden_tests_stay_hidden_from_errors_and_from_what_was_run(course):
    first, *_ = tasks(SAMPLE)
    assert course.scores(SAMPLE, "curious") == expected_scores(SAMPLE, without=[first])
    page = html.unescape(re.sub(r"<[^>]+>", "", course.feedback(SAMPLE, "curious")))
    assert 'raise ValueError("mine")' in page
    assert "ValueError: mine" in page
    for task in tasks(SAMPLE):
        test = cell(source(SAMPLE), f"{task}_test").source
        visible, hidden = re.split("### BEGIN HIDDEN TESTS", test)
        lines = {line.strip() for line in hidden.splitlines()} - {
            line.strip() for line in visible.splitlines()
        }
        assert [line for line in lines if len(line) > 25 and line in page] == []
    assert "BEGIN HIDDEN" not in page


def test_a_traceback_loses_the_lines_of_the_test_and_keeps_those_of_the_answer(monkeypatch):
    monkeypatch.syspath_prepend(COURSE / "grader")
    execute_all = importlib.import_module("grading").ExecuteAll
    own, theirs = (
        "\x1b[36mCell\x1b[39m In[3], line 4\n secret",
        "Cell In[2], line 2, in f(x)\n code",
    )
    error = {"output_type": "error", "ename": "ValueError", "evalue": "mine"}
    error["traceback"] = ["ValueError  Traceback", own, theirs, "ValueError: mine"]
    for grade, left in ((True, [0, 2, 3]), (False, [0, 1, 2, 3])):
        metadata = {"nbgrader": {"grade": grade, "locked": True}}
        test = nbformat.v4.new_code_cell(metadata=metadata, execution_count=3)
        test.outputs = [nbformat.from_dict(error)]
        execute_all()._settle(test, None)
        assert test.outputs[0].traceback == [error["traceback"][i] for i in left]


def test_names_with_combining_marks_and_slips_in_formulas_are_graded(course):
    student = "प्रिया Zoe\u0308"
    assert course.scores(SAMPLE, student) == expected_scores(SAMPLE)
    page = course.feedback(SAMPLE, student)
    for formula in SLIPS:  # as TeX, where it cannot be drawn
        assert html.escape(formula, quote=False) in page
    assert not re.search(r"(?i)http-equiv=.?refresh|<base\b", page)
    assert "form-action 'none'" in page


def test_a_silenced_checker_gives_no_marks(course):
    first, second, *_, last = tasks(SAMPLE)
    expected = expected_scores(SAMPLE, without=[first, second, last])
    assert course.scores(SAMPLE, "tamperer") == expected


UNGRADED = {
    "torn": "is not a readable notebook",
    "foreign": "no cell of this assignment is in the notebook",
    "renamed": f"no {SAMPLE}/{SAMPLE}.ipynb; found {SAMPLE}/Untitled1.ipynb",
    "utf16": "is saved as UTF-16; notebooks are UTF-8",
    "marked": "is saved as UTF-8 with a byte-order mark",
    "huge": "has 60 MB, more than the 50 that are graded",
    "linked": "notes is a link or a device; hand in files",
    "empty": "found no notebook",
    "beside": f"found {SAMPLE}.ipynb",
    "capitals": "found no notebook",
    "[glob": "the folder's name may hold",
}


@pytest.mark.parametrize(("student", "problem"), UNGRADED.items(), ids=list(UNGRADED))
def test_what_cannot_be_graded_is_one_line_with_the_name(course, student, problem):
    row = course.grades(SAMPLE)[student]
    assert problem in row["problem"]
    assert row["total"] == ""
    lines = [line for line in course.printed.splitlines() if line.strip().startswith(student)]
    assert any(problem in line for line in lines)
    assert not (course.root / "feedback" / student).exists()


def test_grading_again_keeps_the_marks_given_by_hand_and_changes_nothing_else(course):
    before, essay = course.grades(SAMPLE), written(SAMPLE)[0]
    with closing(sqlite3.connect(course.root / "gradebook.db")) as book:
        changed = book.execute(
            """update grade set manual_score = 0.5
            where cell_id in (select id from base_cell where name = ? and type = 'GradeCell')
            and notebook_id in (select n.id from submitted_notebook n join submitted_assignment a
                                on n.assignment_id = a.id where a.student_id = 'reference')""",
            [essay],
        )
        assert changed.rowcount == 1
        book.commit()
    classroom(course.root, "grade", SAMPLE, "--student", "reference")
    row = before["reference"]
    row |= {essay: "0.5", "total": f"{float(row['total']) + 0.5:g}"}
    row |= {"to mark": str(int(row["to mark"]) - 1)}
    assert course.grades(SAMPLE) == before


def test_the_solutions_run_and_show_no_hidden_test(course, capsys):
    classroom(course.root, "solutions")
    for slug in SLUGS:
        nb = read(course.root / "solutions" / f"{slug}.ipynb")
        text = "\n".join(c.source for c in nb.cells)
        assert "HIDDEN" not in text
        assert "SOLUTION" not in text
        assert "raise NotYet(" not in "".join(c.source for c in nb.cells if c.id not in HELPERS)
        with new_kernel() as run:
            for c in nb.cells:
                assert c.cell_type != "code" or run(c.source) is None
        assert capsys.readouterr().out.count("✓") >= len(tasks(slug))


def test_an_unknown_assignment_is_named(tmp_path):
    shutil.copytree(COURSE / "source", tmp_path / "source")
    done = subprocess.run(
        command(tmp_path, "release", "waserstein"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "got ['waserstein']" in done.stderr


def test_exits_dead_kernels_and_loops_cost_one_task_each(hostile):
    assert hostile.grader.wait(timeout=800) == 0, (hostile.root / "printed").read_text()
    hit = list(tasks(SAMPLE))[:4]
    assert hostile.scores(SAMPLE, "reckless") == expected_scores(SAMPLE, without=hit)
    assert hostile.grades(SAMPLE)["reckless"]["note"] == f"stopped: {', '.join(hit)}"
    page = hostile.feedback(SAMPLE, "reckless")
    assert page.count(f"Stopped after {hostile.timeout} seconds") == 2
    assert page.count("This cell ended its kernel") == 2
