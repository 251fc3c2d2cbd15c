"""The package alone: what its wheel holds, and what its rooms need where no course is installed."""

import ast
import doctest
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bootstrap
from companion.wasserstein import train
from tests.house.hidden_packages import run_with_only

ROOT = Path(bootstrap.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# Modules that only notebooks, figures and benches import, with the first package that they miss.
NEED_MORE = {
    "companion.bench.lora": "peft",
    "companion.bench.vqvae": "vector_quantize_pytorch",
    "companion.collectives.study.algorithm_map": "matplotlib",
    "companion.collectives.study.figures": "matplotlib",
    "companion.collectives.study.overlap_figure": "matplotlib",
    "companion.collectives.study.ring_frames": "matplotlib",
    "companion.precision.study.bit_frames": "matplotlib",
    "companion.precision.study.figures": "matplotlib",
    "companion.precision.study.scale_path": "matplotlib",
    "companion.explore": "ipywidgets",
    "companion.flash.study.figures": "matplotlib",
    "companion.flash.study.row_by_tiles": "matplotlib",
    "companion.flash.study.schematics": "matplotlib",
    "companion.gan.study.figures": "matplotlib",
    "companion.gan.study.line_game": "matplotlib",
    "companion.gan.study.ring_frames": "matplotlib",
    "companion.gan.study.two_densities": "matplotlib",
    "companion.lora.study.figures": "matplotlib",
    "companion.processes.study.figures": "matplotlib",
    "companion.processes.study.gantt_figure": "matplotlib",
    "companion.processes.study.gil_figure": "matplotlib",
    "companion.processes.study.interleaving_figure": "matplotlib",
    "companion.processes.study.memory_figure": "matplotlib",
    "companion.processes.study.photos": "PIL",
    "companion.processes.study.wait_graph_figure": "matplotlib",
    "companion.vqvae.study.palettes": "matplotlib",
    "companion.vqvae.study.reconstructions": "matplotlib",
    "companion.vqvae.study.cells": "matplotlib",
    "companion.vqvae.study.figures": "matplotlib",
    "companion.wasserstein.figures": "matplotlib",
}
# Modules that import without the extra, but whose examples read pictures that it installs.
EXAMPLES_NEED_MORE = {
    "companion.data.face_crops": "skimage",
    "companion.data.handwriting": "sklearn",
    "companion.data.photo_tiles": "skimage",
    "companion.data.photographs": "skimage",
    "companion.lora.study.intrinsic": "sklearn",
}

# Module names → a file: which miss a package; with `doctests`, how many examples ran, which failed.
TRY = """
import doctest, importlib, io, json, sys

file, task, *names = sys.argv[1:]
missing, examples, failures = {}, {}, {}
for name in names:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
        continue
    if task == "doctests":
        report = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        for test in doctest.DocTestFinder().find(module):
            runner.run(test, out=report.write)
        examples[name] = runner.tries
        if runner.failures:
            failures[name] = report.getvalue()
found = {"missing": missing, "examples": examples, "failures": failures}
found["companion"] = sys.modules["companion"].__file__
with open(file, "w") as out:
    json.dump(found, out)
"""


class Built(NamedTuple):
    """A wheel, and the copy of the checkout that it was built from."""

    wheel: Path
    source: Path


def modules(root: Path) -> list[str]:
    """Every module of the package; its commands (``__main__``) are none."""
    files = {file.relative_to(root).with_suffix("") for file in root.glob("companion/**/*.py")}
    names = {".".join(file.parts).removesuffix(".__init__") for file in files}
    return sorted(name for name in names if not name.endswith("__main__"))


def file_of(module: str, root: Path) -> Path:
    path = root / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def recipes(root: Path) -> list[str]:
    return [name for name in modules(root) if name.endswith(".train")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built from a copy: setuptools leaves its products beside what it reads."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*build", "*.egg-info", "node_modules")
    shutil.copytree(ROOT, folder / "source", ignore=left_out, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "source")],
        cwd=folder,
        env=bootstrap.clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return Built(wheel, folder / "source")


# What the wheel holds


def test_wheel_holds_every_module_and_no_test_or_chapter(built: Built) -> None:
    files = {str(path.relative_to(built.source)) for path in built.source.glob("companion/**/*.py")}
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = f"companion-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(information)} == files
    assert {"companion/lora/peft_files/folder.py", "companion/data/installed.py"} < files


def test_wheel_names_its_licence_its_python_and_its_extras(built: Built) -> None:
    information = f"companion-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(built.wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{information}/METADATA"))
        licence = archive.read(f"{information}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == [*PROJECT["optional-dependencies"]]
    lines = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    needed = {canonicalize_name(Requirement(line).name) for line in lines}
    assert needed == {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}


# What the rooms need, with the other packages hidden


BASE = [Requirement(line).name for line in PROJECT["dependencies"]]


def python(code: str, *arguments: str, only: Iterable[str]) -> str:
    """What a script prints that sees only some distributions and what they require."""
    done = run_with_only(only, code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_imports_with_the_base_packages_alone(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    python(TRY, str(file), "import", *modules(ROOT), only=BASE)
    assert json.loads(file.read_text())["missing"] == NEED_MORE


def test_what_a_module_may_miss_is_in_an_extra() -> None:
    """Of the course or of the language model; a bench may miss the library that it measures."""
    extras = PROJECT["optional-dependencies"]
    names = {
        extra: {canonicalize_name(Requirement(line).name) for line in lines}
        for extra, lines in extras.items()
    }
    owners = packages_distributions()
    for module, package in (NEED_MORE | EXAMPLES_NEED_MORE).items():
        allowed = names["course"] | names["pretrained"]
        if module.startswith("companion.bench."):
            allowed |= names["test"]
        assert {canonicalize_name(owner) for owner in owners[package]} <= allowed, module


def test_recipes_answer_with_the_base_packages_alone() -> None:
    code = """
import importlib
for name in sys.argv[1:]:
    try:
        importlib.import_module(name).main(["--help"])
    except SystemExit as end:
        assert end.code == 0, name
"""
    shown = python(code, *recipes(ROOT), only=BASE)
    assert shown.count("usage: python -m companion.") == len(recipes(ROOT)) >= 3


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    code = """
from companion import data
def explore():
    import companion.explore
for call in (data.digits, data.faces, data.photos, explore, data.smollm2):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    *course, language_model = python(code, only=BASE).splitlines()
    packages = ["sklearn", "skimage", "skimage", "ipywidgets"]
    for package, line in zip(packages, course, strict=True):
        assert f"the package {package!r}" in line
        assert "pip install 'companion[course]'" in line
    assert "pip install 'companion[pretrained]'" in language_model


def test_wgan_recipe_draws_later_where_matplotlib_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from companion.wasserstein.train import main; main(sys.argv[1:])"
    size = ["--steps", "2", "--width", "8", "--depth", "1", "--batch-size", "7"]
    command, picture = [*size, "--out", str(tmp_path)], tmp_path / "samples.png"
    distance, left_out = python(code, *command, only=BASE).splitlines()
    install = "pip install 'companion[course]'"
    assert left_out.startswith(f"{picture} is not drawn without matplotlib: {install}")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    train.main(command)
    assert capsys.readouterr().out.splitlines() == [distance]  # of the same samples
    assert picture.exists()


def test_flash_attention_needs_torch_triton_numpy_and_jaxtyping_only() -> None:
    code = """
import torch
from companion.flash import flash_attention
q, k, v = torch.randn(3, 1, 2, 5, 16, generator=torch.Generator().manual_seed(0))
exact = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
print((flash_attention(q, k, v) - exact).abs().max().item())
assert {"scipy", "psutil", "safetensors"} < HIDDEN
"""
    few = [name for name in BASE if name in {"torch", "triton", "numpy", "jaxtyping"}]
    assert len(few) == 4
    assert float(python(code, only=few)) < 1e-6


# The wheel where nothing else is


def examples(file: Path) -> int:
    """Examples in the docstrings of a module, its classes and its functions; imports nothing."""
    parser, count, waiting = doctest.DocTestParser(), 0, [ast.parse(file.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        written = parser.get_examples(ast.get_docstring(node) or "")
        count += sum(doctest.SKIP not in example.options for example in written)
        if not isinstance(node, ast.FunctionDef):
            inner = ast.ClassDef | ast.FunctionDef
            waiting += [child for child in node.body if isinstance(child, inner)]
    return count


@pytest.fixture
def bare_python(built: Built, tmp_path: Path) -> Iterator[Path]:
    """Python of a new environment with the wheel and what it requires; runs as under test_lock."""
    on_ci = "CI" in os.environ
    if not on_ci and "CHECK_LOCK_FILES" not in os.environ:
        pytest.skip("depends on the lock files and the wheel: runs in CI and in `make test-cpus`")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-compile"]
    done = subprocess.run(
        [*install, "-c", str(ROOT / "constraints.txt"), str(built.wheel)],
        cwd=tmp_path,
        env=bootstrap.clean_environment(),
        capture_output=True,
        text=True,
    )
    reason = bootstrap.explain(done.stdout + done.stderr)
    if done.returncode and not on_ci and reason.startswith("no network"):
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, reason
    yield venv / "bin" / "python"
    shutil.rmtree(venv)  # a gigabyte, and pytest keeps the folders of three runs


def run(bare_python: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(bare_python), *arguments],
        cwd=folder,
        env=bootstrap.clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_works_alone(built: Built, bare_python: Path, tmp_path: Path) -> None:
    """Modules import, examples give what they show, recipes answer: outside of any checkout."""
    assert "No broken requirements" in run(bare_python, tmp_path, "-m", "pip", "check")
    file, names = tmp_path / "found.json", modules(built.source)
    run(bare_python, tmp_path, "-c", TRY, str(file), "doctests", *names)
    found = json.loads(file.read_text())
    assert Path(found["companion"]).is_relative_to(bare_python.parents[1])
    assert found["missing"] == NEED_MORE
    failures = "".join(found["failures"].values())
    assert found["failures"].keys() == EXAMPLES_NEED_MORE.keys(), failures
    for name, report in found["failures"].items():
        assert f"ImportError: the package {EXAMPLES_NEED_MORE[name]!r} is not installed" in report
    # No example was passed over: counted in the sources, by other means.
    written = {name: examples(file_of(name, built.source)) for name in names}
    assert found["examples"] == {n: count for n, count in written.items() if n not in NEED_MORE}
    assert sum(found["examples"].values()) > len(names)
    for name in recipes(built.source):
        assert f"usage: python -m {name}" in run(bare_python, tmp_path, "-m", name, "--help")
