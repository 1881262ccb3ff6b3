# Every target makes .venv first, where that is still to do: `make test` and
# `make demo` work as the first command in a fresh clone.

.PHONY: setup lint test test-fast demo recipes soak docs release matrix

# Tests start many processes; each with all the threads would be slower.
export OMP_NUM_THREADS ?= 1

# Of pytest. A file's tests stay in one process: they share fixtures that take long to make.
PROCESSES ?= 2

# Another environment that is complete: `make test-fast VENV=DIR SETUP=`.
VENV ?= $(CURDIR)/.venv
SETUP ?= setup

# Its programs, among them python3, come first for the recipes.
IN_VENV = PATH="$(VENV)/bin:$$PATH"

setup:
	@tools/setup.sh

lint: setup
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) pyright --pythonpath .venv/bin/python
	$(IN_VENV) lint-imports

test: lint
	$(IN_VENV) pytest --numprocesses $(PROCESSES) --dist loadfile

# Two minutes of two idle cores: no recipe is run, nothing trained, no environment made.
test-fast: $(SETUP)
	$(IN_VENV) pytest --numprocesses $(PROCESSES) --dist loadfile -m "not slow"

demo: setup
	@$(IN_VENV) tools/demo.sh

# The recipes of large corpora, stages 1 to 14, on small trees of the same layouts.
recipes: setup
	@$(IN_VENV) tools/try_recipes.sh

# Kills, full disks, races and hostile files for up to half an hour; needs root for a
# small disk of its own.
soak: setup
	@$(IN_VENV) python3 -m tests.soak

# The site of documentation, in build/site; a warning is an error.
docs: setup
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Build, check, tag; uploads nothing.
release: setup
	$(IN_VENV) tools/release.sh

# The quick tests with the oldest and the newest PyTorch that ESPnet allows.
matrix:
	tools/matrix.sh
