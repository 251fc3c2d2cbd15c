"""The stages behind `make test`, `make check` and `make test-cpus`: what they run and tell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import stages
from tests.stages import CPUS, SLUGS, Stage, main, room_of

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(f"course/{path.name}" for path in (ROOT / "course").glob("[0-9]*_*.ipynb"))


def commands(of: list[Stage]) -> list[str]:
    return [" ".join(command) for stage in of for command in stage.commands]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# What is run


def test_everything_is_tested_the_cheapest_first() -> None:
    """All unit tests and doctests, and strict nbval on every chapter."""
    *_, unit, book, site, nbval = found = commands(stages.everything())
    assert len(found) == 7
    assert [command.split("/")[-1] for command in found[:2]] == [
        "ruff check .",
        "ruff format --check .",
    ]
    assert found[2].endswith(" tests/course/test_chapter_rules.py")
    assert unit.endswith(" tests companion --doctest-modules -m not browser")
    assert book.endswith("jupyter_book/build.py")
    assert site.endswith(" -m pytest tests/site -m browser")
    strict = f"--nbval {' '.join(CHAPTERS)} --nbval-sanitize-with tests/course/nbval_sanitise.cfg"
    assert strict in nbval
    assert not any(word in f"{found}" for word in ("--ignore", "--deselect", "'-k", "lax"))


def test_a_chapter_is_checked_with_its_exercises_pages_and_notebook() -> None:
    found = commands(stages.one_chapter(["lora"]))
    unit, _, site, nbval = found[2:]
    assert " tests/lora companion/lora tests/course --doctest-modules --chapter lora" in unit
    assert site.endswith("tests/site -m browser --chapter lora")
    assert " --nbval course/07_lora.ipynb " in nbval
    assert "wasserstein" not in f"{found}"


def test_the_option_for_one_chapter(tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "tests" / "lora").mkdir(parents=True)
    (tmp_path / "tests" / "lora" / "test_of_the_room.py").write_text("def test_a(): pass\n")
    names = "lora lora-scale explora 07_lora.html 09_flash.html course/07_lora.ipynb"
    (tmp_path / "test_any.py").write_text(
        f"import pytest\n@pytest.mark.parametrize('name', {names.split()})\n"
        "def test_b(name): pass\ndef test_lora_and_more(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "--chapter", "lora"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    chosen = [line for line in said.splitlines() if "::" in line]
    assert [line.split("::")[1] for line in chosen] == [
        *(f"test_b[{name}]" for name in names.split() if name not in ("explora", "09_flash.html")),
        "test_a",
    ]


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_without_a_name_the_chapters_that_differ(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    paths = ["companion/lora/a.py", "companion/flash/a.py", "course/09_flash.ipynb", "Makefile"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("before")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    assert stages.changed() == []
    assert main(["check"]) == 0
    assert "no chapter differs" in capsys.readouterr().out
    for path in ("course/09_flash.ipynb", "tests/lora/ünew.py", "Makefile"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("after")
    assert stages.changed() == ["flash", "lora"]
    assert capsys.readouterr().out == "of no chapter, left to `make test`: Makefile\n"


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("companion/lora/files.py", "lora"),
        ("course/07_lora.ipynb", "lora"),
        ("course/exercises/source/lora/lora.ipynb", "lora"),
        ("tests/course/wrong_answers/lora.py", "lora"),
        ("companion/bench/lora.py", "lora"),
        ("tests.lora.test_files test_a", "lora"),
        ("tests.course.test_exercises test_a[lora-scale]", "lora"),
        ("tests.site.test_site_pages test_a[light-390-07_lora.html]", "lora"),
        ("tests.site.test_site_pages test_a[light-390-index.html]", "site"),
        ("companion.training companion.training.fit", "training"),
        ("pyproject.toml", None),
    ],
)
def test_what_belongs_to_whom(name, room) -> None:
    assert room_of(name) == room


def test_unknown_names_are_told(capsys) -> None:
    for words, known in ((["check", "loar"], " lora "), (["test", "units"], " unit ")):
        with pytest.raises(SystemExit):
            main(words)
        said = capsys.readouterr().err
        assert known in said
        assert said.endswith(f"got {words[1]}\n")


# Other processors


def test_every_setting_is_there_and_what_cannot_run_is_named(monkeypatch, capsys) -> None:
    """The settings of the house's design; torch names what a processor can do."""
    asked = {
        "OPENBLAS_CORETYPE": {"Haswell", "Zen", "Nehalem", "SkylakeX"},
        "ATEN_CPU_CAPABILITY": {"default", "avx2", "avx512"},
        "MKL_CBWR": {"COMPATIBLE"},
        "OMP_NUM_THREADS": {"1", "2"},
    }
    for key, values in asked.items():
        assert {setting[key] for setting, _ in CPUS if key in setting} == values
    for level, runs in (("AVX512", 4), ("AVX2", 3), ("DEFAULT", 1)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda level=level: level)
        found = stages.other_processors(["lora"])
        assert [stage.name.split("-")[0] for stage in found] == ["unit", "chapters"] * runs + [
            "lock files"
        ]
        slow = [c for c in commands(found) if c.endswith(" -m not slow")]
        assert len(slow) == runs - 1  # what takes long runs with one setting
        assert capsys.readouterr().out.count("not here, for want of AVX") == 4 - runs


# What is told


def test_the_first_failure_ends_the_run_and_the_times_are_told(monkeypatch, tmp_path, capsys):
    ran = tmp_path / "ran"
    planned = [
        Stage("one", [python("pass")], budget_s=0.001),
        Stage("two", [python("raise SystemExit(3)"), python(f"open({str(ran)!r}, 'w')")]),
        Stage("three", [python(f"open({str(ran)!r}, 'w')")]),
    ]
    monkeypatch.setattr(stages, "everything", lambda: planned)
    monkeypatch.setattr(stages, "TIMES", tmp_path / "times")
    assert main(["test"]) == 3
    assert not ran.exists()
    said = capsys.readouterr().out
    assert " of 0 !" in said  # over its budget, and yet not what failed
    assert re.search(r"^  two .* failed$", said, re.MULTILINE)
    assert "three" not in said


def test_seconds_are_told_for_each_room(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(stages, "TIMES", tmp_path)
    case = '<testcase classname="tests.{}.test_a" name="test_b" time="{}"/>'
    cases = [case.format(*one) for one in (("lora", 70), ("lora", 60), ("house", 300))]
    (tmp_path / "unit.xml").write_text(f"<testsuites>{''.join(cases)}</testsuites>")
    (tmp_path / "unit-1.xml").write_text(f"<testsuites>{cases[0]}</testsuites>")
    ran = [Stage("unit", [], workers=2), Stage("unit-1", [])]
    lines = stages.table(ran, None).splitlines()
    assert "seconds per room        unit      unit-1" in lines
    assert [line.split() for line in lines if "lora" in line] == [["lora", "65", "!", "70", "!"]]
    assert [line.split() for line in lines if "house" in line] == [["house", "150", "0"]]


def test_the_first_line_names_processor_kernels_threads_and_versions() -> None:
    command = [sys.executable, "tests/kernels.py"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1
    for word in ("cores", "NumPy: openblas ", "ATen ", "oneDNN ", "threads ", "torch 2", "SciPy"):
        assert word in said


def test_a_variable_chooses_the_kernels_and_is_told() -> None:
    code = "from tests.kernels import line; print(line())"
    plain = CPUS[2][0]
    done = subprocess.run(
        python(code), cwd=ROOT, env={**os.environ, **plain}, capture_output=True, text=True
    )
    assert "openblas Nehalem" in done.stdout
    assert "ATen DEFAULT" in done.stdout
    assert "SSE4.1" in done.stdout
    assert "; MKL_CBWR=COMPATIBLE; " in done.stdout


def test_the_chapters_are_known() -> None:
    assert {"wasserstein", "lora", "flash", "processes", "collectives"} <= set(SLUGS)
    shared = {"bench", "data", "explore", "language", "measure", "training"}
    assert not {*shared, "house", "site", "course"} & set(SLUGS)
