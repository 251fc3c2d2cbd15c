"""What this course changes in nbgrader; `nbgrader_config.py` puts these classes to use.

RestoreCells    the released cells stand in their places, whatever the student did to them
ExecuteAll      no cell can stop the rest: endless loops, a dead kernel, a flood of output
"""

import time
from pathlib import Path

import nbformat
from fence import FencedKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.filters import strip_ansi
from nbformat.v4 import new_code_cell, new_output
from nbgrader import utils
from nbgrader.preprocessors import Execute, NbGraderPreprocessor
from traitlets import Integer

__all__ = ["ExecuteAll", "RestoreCells"]

MAX_OUTPUT_CHARACTERS = 100_000
# Run before each test: the checker as it was handed out, and a check that it still objects.
FRESH_CHECKER = (
    (Path(__file__).parents[1] / "expect.py").read_text()
    + """

try:
    expect("", 1, 2, hint="")
except NotYet:
    pass
else:
    raise RuntimeError
"""
)


class RestoreCells(NbGraderPreprocessor):
    """Put the released cells back in order: deleted, copied, moved or relabelled ones.

    A cell is known by its nbgrader id, or else by its notebook id (some editors drop the
    former). Every other cell stays behind the known cell that it followed. Of a known cell
    with copies the last one counts, because Python keeps the last definition too.
    """

    def preprocess(self, nb, resources):
        names = resources["nbgrader"]
        path = Path("release", names["assignment"], f"{names['notebook']}.ipynb")
        released = {
            cell.metadata.nbgrader.grade_id: cell
            for cell in nbformat.read(path, as_version=4).cells
            if "nbgrader" in cell.metadata
        }
        last = {self._known_id(cell, released): cell for cell in nb.cells}
        if not set(last) & set(released):
            raise ValueError("no cell of this assignment is in the notebook")
        head, followers = [], {grade_id: [] for grade_id in released}
        place = head
        for cell in nb.cells:
            grade_id = self._known_id(cell, released)
            if grade_id and cell is last[grade_id]:
                cell.metadata.nbgrader = released[grade_id].metadata.nbgrader
                place = followers[grade_id]
            else:
                cell.metadata.pop("nbgrader", None)
                place.append(cell)
        nb.cells = head
        for grade_id, cell in released.items():
            nb.cells += [last.get(grade_id, cell), *followers[grade_id]]
        return nb, resources

    @staticmethod
    def _known_id(cell, released):
        label = cell.metadata.get("nbgrader", {}).get("grade_id")
        return next((name for name in (label, cell.get("id")) if name in released), None)


class ExecuteAll(Execute):
    """Run every cell, whatever the others do.

    A cell that ends its kernel, or cannot be interrupted, is marked with an error; a new kernel,
    with its own fence, runs the others from the start. A test that never ran earns nothing
    (nbgrader alone would give it full marks), and a warning on stderr costs nothing.
    Each test gets a fresh `expect`, in case an answer used that name for something else. What a
    test holds stays hidden: it leaves no trace in `In`, and a traceback none of its lines.
    """

    total_timeout = Integer(300, help="seconds for a whole notebook").tag(config=True)

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords, kernel_manager_class=FencedKernel)

    def create_kernel_manager(self):
        self._kernel = super().create_kernel_manager()
        return self._kernel

    def preprocess(self, nb, resources, km=None):
        self._stopped, self._deadline = {}, time.monotonic() + self.total_timeout
        starts = 0
        while True:
            self._running = None
            try:
                nb, resources = super().preprocess(nb, resources, km)
                break
            except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
                if self._running is None:  # the kernel did not start: two may want one port
                    starts += 1
                    if starts == 3:
                        raise
                    continue
                dead = isinstance(error, DeadKernelError)
                died = self._kernel.ended or "This cell ended its kernel."
                self._stopped[self._running] = died if dead else self._timeout_text()
        for index, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                self._settle(cell, self._stopped.get(index))
        return nb, resources

    def preprocess_cell(self, cell, resources, index):
        if index in self._stopped or cell.cell_type != "code":
            return cell, resources
        self._running, self._characters = index, 0
        if time.monotonic() > self._deadline:
            self._stopped[index] = f"The notebook's {self.total_timeout} seconds were used up."
            return cell, resources
        if utils.is_grade(cell):
            checker = new_code_cell(FRESH_CHECKER)
            try:
                self.execute_cell(checker, index, store_history=False)
            finally:
                self.nb.cells[index] = cell  # where nbclient puts what it executes
            if any(out.output_type == "error" for out in checker.outputs):
                self._stopped[index] = "The checker was changed by an earlier cell."
                return cell, resources
            self._check_assign_resources(resources)
            return self.execute_cell(cell, index, store_history=False), self.resources
        return super().preprocess_cell(cell, resources, index)

    def on_cell_executed(self, **kwargs):
        super().on_cell_executed(**kwargs)
        payload = kwargs["execute_reply"]["content"].get("payload", [])
        if any(part.get("source") == "ask_exit" for part in payload):
            raise DeadKernelError("exit() was called")

    def output(self, outs, msg, display_id, cell_index):
        """Keep the first part of a flood; nbclient would hold all of it in memory.

        An error beyond it comes once more, with the reply to the cell.
        """
        content, left = msg["content"], MAX_OUTPUT_CHARACTERS - self._characters
        self._characters += len(str(content))
        if self._characters > MAX_OUTPUT_CHARACTERS:
            if msg["msg_type"] != "stream" or left <= 0:
                return None
            content["text"] = f"{content['text'][:left]}\n… (cut)"
        return super().output(outs, msg, display_id, cell_index)

    def _update_display_id(self, display_id, msg):
        """An update counts for each place that shows it."""
        places = sum(map(len, self._display_id_map.get(display_id, {}).values()))
        self._characters += places * len(str(msg["content"]))
        if self._characters <= MAX_OUTPUT_CHARACTERS:
            super()._update_display_id(display_id, msg)

    def handle_comm_msg(self, outs, msg, cell_index):
        """Widgets need a kernel that answers; what they hold has no place on the page."""

    def _timeout_text(self):
        return f"Stopped after {self.timeout} seconds. Is there an endless loop?"

    def _settle(self, cell, stopped):
        if stopped:
            cell.outputs = [_error("Stopped", stopped)]
        elif utils.is_grade(cell) and cell.execution_count is None:
            cell.outputs.append(_error("NotRun", "This test did not run."))
        for output in cell.outputs:
            if output.output_type == "error" and output.ename == "CellTimeoutError":
                output.evalue = self._timeout_text()
                output.traceback = [output.evalue]
            if utils.is_grade(cell) and output.output_type == "error":
                own = f"Cell In[{cell.execution_count}]"  # a count that no earlier cell has
                output.traceback = [
                    part for part in output.traceback if not strip_ansi(part).startswith(own)
                ]
            if utils.is_grade(cell) and output.get("name") == "stderr":
                output.name = "stdout"


def _error(name, text):
    return new_output("error", ename=name, evalue=text, traceback=[text])
