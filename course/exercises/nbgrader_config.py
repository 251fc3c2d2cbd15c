"""nbgrader's settings for this course: for grader/classroom.py, `nbgrader …` and the formgrader."""

import sys
from pathlib import Path

here = str(Path(__file__).parent)
grader = str(Path(__file__).parent / "grader")
if grader not in sys.path:
    sys.path.insert(0, grader)

import feedback_page  # noqa: E402
import grading  # noqa: E402
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor  # noqa: E402
from nbgrader.preprocessors import (  # noqa: E402
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    GetGrades,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)

c = get_config()

c.CourseDirectory.course_id = "companion"
c.CourseDirectory.root = here
# Several graders write to this file at once: each waits for its turn.
c.CourseDirectory.db_url = f"sqlite:///{here}/gradebook.db?timeout=60"

c.ClearSolutions.code_stub = {"python": '# YOUR CODE HERE\nraise NotYet("not answered yet")'}

c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    grading.RestoreCells,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    grading.ExecuteAll,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
c.ExecuteAll.timeout = 30
c.ExecuteAll.total_timeout = 300
# A student sees the verdict of a hidden test, not its text.
c.GenerateFeedback.preprocessors = [
    GetGrades,
    ClearHiddenTests,
    CSSHTMLHeaderPreprocessor,
]
c.GenerateFeedback.exporter_class = feedback_page.OfflinePage
