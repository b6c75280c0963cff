# make demo: a first sweep, its table and report    make lint: style and types
# make test: lint and all tests                     make bench: what is how fast, some minutes
# make coverage: which lines the tests execute
# make versions: the golden runs under each version of PyTorch that is allowed, half an hour
# All set up .venv by themselves and find it the next time.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test lint coverage bench versions clean

demo: .venv/.installed
	$(BIN)/python -m randlabels.run sweep=demo
	$(BIN)/python -m analysis.collect runs/demo
	$(BIN)/python -m analysis.report runs/demo

test: lint
	$(BIN)/pytest $(OPTIONS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: .venv/.installed-dev
	$(BIN)/pytest --cov -m "not slurm"

bench: .venv/.installed
	$(BIN)/python -m tests.benchmarks

versions: .venv/.installed-dev
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m tests.versions

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
