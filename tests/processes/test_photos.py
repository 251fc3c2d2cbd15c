"""The real run of chapter 10: pictures decoded and augmented, the same whoever does it."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from companion.data import photos
from companion.processes.spans import Span
from companion.processes.study.gantt_figure import describe_gantt, draw_gantt
from companion.processes.study.photos import SIDE, augment_native, augment_python, encoded_photos
from companion.processes.worker_pool import WorkerPool
from tests.processes import pool_tasks as tasks


@pytest.fixture(scope="module")
def files():
    return encoded_photos()


def test_files_hold_the_photographs(files):
    assert files.keys() == photos().keys()
    for name, picture in photos().items():
        decoded = np.asarray(Image.open(io.BytesIO(files[name])))
        error = np.abs(decoded - 255 * picture.permute(1, 2, 0).numpy())
        assert error.mean() < 8  # JPEG is lossy; gravel is the worst


@pytest.mark.parametrize("task", [augment_native, augment_python])
def test_a_job_is_its_file_and_its_seed(files, task):
    first, again = task((files["cat"], 3)), task((files["cat"], 3))
    assert first == again
    assert len(first) == SIDE * SIDE * 3
    others = {task((files["cat"], seed)) for seed in range(5)}
    assert len(others) == 5


def test_the_tone_curve_is_the_only_difference(files):
    native = np.frombuffer(augment_native((files["coffee"], 1)), np.uint8)
    curved = np.frombuffer(augment_python((files["coffee"], 1)), np.uint8)
    np.testing.assert_array_equal(curved, np.floor(255 * (native / 255) ** 0.8 + 0.5))


def test_a_crop_shows_a_part_of_the_picture():
    """A picture that gets brighter to the right keeps its slope, or turns it when flipped."""
    ramp = np.tile(np.arange(0, 250, dtype=np.uint8)[None, :, None], (200, 1, 3))
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    slopes = []
    for seed in range(8):
        pixels = np.frombuffer(augment_native((file.getvalue(), seed)), np.uint8)
        row = pixels.reshape(SIDE, SIDE, 3)[SIDE // 2, 10:-10, 0].astype(float)
        slopes.append(np.polyfit(np.arange(len(row)), row, 1)[0])
    # A square of 100 to 200 of the 250 columns on 128 pixels.
    assert all(100 / 128 * 0.9 < abs(slope) < 200 / 128 * 1.1 for slope in slopes)
    assert min(slopes) < 0 < max(slopes)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_same_pictures_whatever_the_workers(files, kind):
    """Threads share all modules: a choice drawn from global state would be anybody's."""
    jobs = [(files[name], seed) for seed in range(12) for name in ("cat", "coins", "rocket")]
    alone = [augment_native(job) for job in jobs], [augment_python(job) for job in jobs[:3]]
    for workers in (1, 3):
        with WorkerPool(workers, kind=kind) as pool:
            assert pool.map(augment_native, jobs) == alone[0]
            assert pool.map(augment_python, jobs[:3]) == alone[1]


def test_the_jobs_of_a_process_do_not_wait_for_pytorch(files):
    with WorkerPool(1) as pool:
        pool.submit(augment_python, (files["cat"], 0)).result()
        loaded = pool.submit(tasks.modules).result()
    assert "companion.processes.study.photos" in loaded
    assert "torch" not in loaded


# The timeline

SPANS = [Span(0, 0, 10.0, 10.3), Span(2, 1, 10.0, 10.1), Span(2, 2, 10.1, 10.4)]


@pytest.mark.usefixtures("no_window")
def test_bars_are_the_spans():
    figure = draw_gantt({"one": SPANS, "two": SPANS[1:]})
    one, two = figure.axes
    extents = [
        sorted((path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in rows.get_paths())
        for rows in one.collections
    ]
    np.testing.assert_allclose(extents[0], [(0, 300)], atol=1e-6)
    np.testing.assert_allclose(extents[1], [(0, 100), (100, 400)], atol=1e-6)
    assert [label.get_text() for label in one.get_yticklabels()] == ["worker 0", "worker 2"]
    assert len(two.collections) == 1
    assert two.get_xlabel() == "time (ms)"


def test_the_timeline_in_words():
    assert describe_gantt(SPANS) == "3 tasks on 2 workers in 400 ms; busy for 75 %, 100 % of it"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_gantt({}), "at least one panel"),
        (lambda: draw_gantt({"empty": []}), "at least one span"),
        (lambda: describe_gantt([]), "at least one span"),
    ],
)
def test_nothing_to_draw(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
