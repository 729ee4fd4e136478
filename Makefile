# Everything runs in a virtual environment of its own, .venv; the only needs are make, git and Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BARE := .venv-bare
SPREAD := --numprocesses auto --dist loadfile
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo picture test bare lint bench clean

help:  ## say what can be made
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*  ## /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-9s %s\n", $$1, $$2 }'

demo: $(VENV)/.core  ## make the sample network faster, and show what that gained and cost
	@$(RUN) samples/charnet/demo.py

test: $(VENV)/.dev  ## run the tests, as many files at a time as there are cores; PYTEST_ADDOPTS adds options
	$(RUN) -m pytest $(SPREAD)

bare: $(BARE)/.dev  ## run the tests but those of training, where PyTorch is not installed
	$(BARE)/bin/python -m pytest $(SPREAD)

lint: $(VENV)/.dev  ## ruff, mypy, pyright and the layers; changes nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports

bench: $(VENV)/.dev  ## measure chains, command line, CP solver and accuracy without training; some minutes
	$(RUN) tests/benchmarks/generate.py build/bench/residual.onnx
	$(RUN) tests/benchmarks/generate.py build/bench/narrow.onnx --width 16
	$(RUN) tests/benchmarks/bench_chains.py
	$(RUN) -m tests.benchmarks.bench_tiles
	$(RUN) tests/benchmarks/bench_cli.py --model build/bench/residual.onnx
	$(RUN) tests/benchmarks/bench_cp.py --model build/bench/narrow.onnx --kernels 3 --every 5 --starts 1
	$(RUN) -m tests.benchmarks.bench_accuracy --samples 256 --scheme basis separable --keep 0.2

picture: $(VENV)/.core  ## draw the README's picture from a run of the demo
	$(RUN) docs/picture.py

clean:  ## remove all that make has made, .venv too
	rm -rf $(VENV) $(BARE) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find onnxlr passes tests samples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than what it was installed from only when that has changed since.
$(VENV)/.core: pyproject.toml constraints.txt | $(RUN)
	@echo "installing onnxlr into $(VENV)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(RUN)
	@echo "installing onnxlr, PyTorch and the development tools into $(VENV)"
	$(PIP) --editable ".[dev,train]"
	@touch $(VENV)/.core $@

$(BARE)/.dev: pyproject.toml constraints.txt
	@echo "installing onnxlr and the development tools, without PyTorch, into $(BARE)"
	@$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or later; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
