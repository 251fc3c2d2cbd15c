"""The drawings of chapter 10, in one place. Chapter: course/10_processes.ipynb."""

from companion.processes.study.gantt_figure import describe_gantt, draw_gantt
from companion.processes.study.gil_figure import describe_gil, draw_gil
from companion.processes.study.interleaving_figure import describe_interleaving, draw_interleaving
from companion.processes.study.memory_figure import draw_pages, draw_process, page_counts

__all__ = [
    "describe_gantt",
    "describe_gil",
    "describe_interleaving",
    "draw_gantt",
    "draw_gil",
    "draw_interleaving",
    "draw_pages",
    "draw_process",
    "page_counts",
]
