"""The marks of a class: from the gradebook to `grades/SLUG.csv` and to the terminal."""

import csv
from pathlib import Path
from typing import NamedTuple

from nbgrader.api import Gradebook, MissingEntry

__all__ = ["Graded", "earlier", "summary", "write_grades"]


class Graded(NamedTuple):
    """What became of one submission; ``problem`` is empty when it was graded."""

    student: str
    problem: str = ""
    note: str = ""
    seconds: float = 0.0


def write_grades(target: Path, db_url: str, slug: str, graded: list[Graded]) -> list[dict]:
    """Write the CSV ``target``: one row per student, one column per task."""
    with Gradebook(db_url, "companion") as book:
        notebook = book.find_notebook(slug, slug)
        tasks = [cell.name for cell in notebook.grade_cells]
        rows = [score_row(book, slug, one, tasks, notebook.max_score) for one in graded]
    target.parent.mkdir(exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def earlier(target: Path) -> dict[str, Graded]:
    """What the last run said about each student, from its CSV."""
    if not target.exists():
        return {}
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["student"]: Graded(row["student"], row["problem"], row["note"]) for row in rows}


def score_row(book: Gradebook, slug: str, one: Graded, tasks: list[str], most: float) -> dict:
    """A student's scores; a written task is empty until its marks are entered by hand."""
    row = {"student": one.student} | {task_name(name): "" for name in tasks}
    total, to_mark = "", ""
    if not one.problem:
        try:
            grades = book.find_submission_notebook(slug, slug, one.student).grades
        except MissingEntry:
            grades = []
        marked = {
            g.name: g for g in grades if g.auto_score is not None or g.manual_score is not None
        }
        row |= {task_name(name): f"{g.score:g}" for name, g in marked.items()}
        total, to_mark = (
            f"{sum(g.score for g in marked.values()):g}",
            len(tasks) - len(marked),
        )
    row |= {"total": total, "of": f"{most:g}", "to mark": to_mark}
    return row | {"problem": one.problem, "note": one.note}


def task_name(grade_id: str) -> str:
    """The task that a graded cell belongs to: ``c_transform`` for ``c_transform_test``."""
    return grade_id.removesuffix("_test")


def summary(slug: str, rows: list[dict]) -> str:
    """The class on the terminal: one line per student, the task columns shortened to marks."""
    lines = [f"{slug}: {len(rows)} submissions, {sum(bool(r['problem']) for r in rows)} not graded"]
    for row in rows:
        shown = row["problem"] or f"{row['total']:>5} of {row['of']}"
        if not row["problem"]:
            shown += f", {row['to mark']} to mark by hand" if row["to mark"] else ""
            shown += f"  ({row['note']})" if row["note"] else ""
        lines.append(f"  {row['student']:<24} {shown}")
    return "\n".join(lines)
