"""The page of measured results says what the committed records say, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from companion.bench.page import main, measured_page
from companion.bench.records import read_records, write_records
from tests.bench.example_record import RECORD

COURSE = Path(__file__).parents[2] / "course"


def test_page_names_machine_date_and_every_record():
    other = replace(
        RECORD, device="cuda", machine="A GPU, tiles as they were", workload="work on the GPU"
    )
    page = measured_page([RECORD, replace(RECORD, workload="second"), other])
    assert page.count("## ") == 2
    assert "## fake on CPU\n\n2026-01-02, A processor, 2 cores; 2 threads, 7 rounds." in page
    assert "## fake on A GPU\n\n2026-01-02, A GPU, tiles as they were; 2 threads" in page
    assert "| work n=3 | peer | 1.23 ms (1.2–13.1) | 10 ms (9.95–22.2) | 8.10× | ≥ 4× |" in page
    assert page.index("second") < page.index("work on the GPU")
    assert "Versions: python 3.11.7." in page


def test_a_differing_result_is_shown():
    nothing = {"ours_s": None, "peer_s": None, "ours_range_s": None, "peer_range_s": None}
    page = measured_page([replace(RECORD, equal=False, passed=False, ratio=None, **nothing)])
    assert "| work n=3 | peer | – | – | – | ≥ 4× | results differ |" in page


def test_a_record_of_medians_alone():
    bare = {"ours_range_s": None, "peer_range_s": None, "rounds": 0}
    page = measured_page([replace(RECORD, **bare)])
    assert "2026-01-02, A processor, 2 cores.\n" in page
    assert "| work n=3 | peer | 1.23 ms | 10 ms | 8.10× |" in page


def test_page_says_so_while_no_gpu_was_measured():
    on_gpu = replace(RECORD, device="cuda")
    assert "No GPU has been measured yet." in measured_page([RECORD])
    assert "No GPU" not in measured_page([RECORD, on_gpu])


def test_command_writes_the_page(tmp_path):
    write_records(tmp_path / "fake-cpu.json", [RECORD])
    assert main([str(tmp_path / "measured.md"), str(tmp_path / "fake-cpu.json")]) == 0
    assert (tmp_path / "measured.md").read_text(encoding="utf-8") == measured_page([RECORD])


def test_command_reads_every_file_in_the_order_of_their_names(tmp_path):
    for name in ("later", "early"):
        write_records(tmp_path / f"{name}.json", [replace(RECORD, slug=name)])
    files = [str(tmp_path / f"{name}.json") for name in ("later", "early")]
    assert main([str(tmp_path / "measured.md"), *files]) == 0
    page = (tmp_path / "measured.md").read_text(encoding="utf-8")
    assert 0 < page.index("## early on CPU") < page.index("## later on CPU")


def test_no_records_no_page():
    with pytest.raises(ValueError, match="at least one record"):
        measured_page([])


def test_committed_page_is_written_from_the_committed_records():
    page = COURSE / "measured.md"
    records = read_records(sorted((COURSE / "measured").glob("*.json")))
    assert records, "course/measured/ holds no records: run make bench with --json"
    assert page.read_text(encoding="utf-8") == measured_page(records)
