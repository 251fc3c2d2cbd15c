# Every target first sets the course up; bootstrap.py does that once, and again only when its inputs change.

PYTHON ?= python3
LAB_FLAGS ?=
BENCH ?=
NB ?=
SLUG ?=

BIN := .venv/bin
STAGES := $(BIN)/python tests/stages.py
# JupyterLab refuses to run as root unless told; in a container there is often no other user.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Nothing from outside the environment may change what runs inside it.
unexport PYTHONPATH PYTHONHOME MPLBACKEND
export PYTHONNOUSERSITE := 1
export JUPYTER_PREFER_ENV_PATH := 1
# The terminals of the Lab, `!torchrun` in a cell and pre-commit find the course's tools.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup lab test test-unit test-site test-nb test-cpus test-gpu check lint format book serve \
        bench soak exercises grade chapter hooks lock clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "set-up: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" bootstrap.py

lab: setup  ## open JupyterLab on the course (LAB_FLAGS="--no-browser --port=8899" passes through)
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	  --ServerApp.preferred_dir="$(CURDIR)/course" --LabApp.default_url=/lab/tree/course/index.md $(AS_ROOT) $(LAB_FLAGS)

test: setup  ## everything: code, exercises, the site in a browser, all chapters
	$(STAGES) test

check: setup  ## everything about one chapter (SLUG=lora), or about those that you changed
	$(STAGES) check $(SLUG)

test-unit: setup  ## unit tests, doctests, set-up, exercises, the chapters' form
	$(STAGES) test unit

test-site: setup  ## the built site in Chromium (skipped where there is none)
	$(STAGES) test book site

test-nb: setup  ## run every chapter and compare with its stored outputs
	$(STAGES) test chapters

test-cpus: setup  ## unit tests and chapters as other processors compute (SLUG=lora)
	$(STAGES) cpus $(SLUG)

# A Python whose torch sees a GPU serves as it is, with whatever else it has.
SEES_GPU := -c "import torch; raise SystemExit(not torch.cuda.is_available())"
test-gpu:  ## the tests that need a CUDA device
	@python="$(PYTHON)"; "$$python" $(SEES_GPU) 2>/dev/null || { \
	  "$$python" bootstrap.py && python=$(BIN)/python && "$$python" $(SEES_GPU) || { \
	  echo "test-gpu: torch sees no CUDA device here, so nothing was tested" >&2; exit 1; }; }; \
	"$$python" -m pytest -m gpu tests

lint: setup  ## check the style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## correct the style of code and notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

book: setup  ## build the site into jupyter_book/_build/html
	$(BIN)/python jupyter_book/build.py

serve: book  ## build the site and look at it on http://127.0.0.1:8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory jupyter_book/_build/html

soak: setup  ## kill recipes 50 times each at random moments; they must end the same
	$(BIN)/python -m tests.training.soak

bench: setup  ## measure our speed against other libraries (BENCH="wasserstein --json results.json")
	$(BIN)/python -m companion.bench $(BENCH)

exercises: setup  ## write the students' versions of the exercises
	$(BIN)/python course/exercises/grader/classroom.py release

grade: setup  ## collect and grade course/exercises/submitted/, with feedback and a CSV
	$(BIN)/python course/exercises/grader/classroom.py grade

chapter: setup  ## execute and clean one chapter (NB=course/02_wasserstein.ipynb)
	$(if $(NB),,$(error say which: make chapter NB=course/NN_slug.ipynb))
	$(BIN)/python jupyter_book/scripts/execute.py "$(NB)"

hooks: setup  ## check style before every commit in this clone
	$(BIN)/pre-commit install

lock: setup  ## resolve the newest allowed versions and rewrite constraints.txt
	$(BIN)/python bootstrap.py --lock

clean:  ## remove what is built; .venv stays (delete that folder to set up from nothing)
	rm -rf jupyter_book/_build build .times companion.egg-info .pytest_cache .ruff_cache .hypothesis
	find companion tests course jupyter_book \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
