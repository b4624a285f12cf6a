# `make setup` needs Python >= 3.11 and a network with PyPI; everything lands in .venv/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

C_SOURCES := $(wildcard $(addprefix src/quicknet/,engine/*/*.[ch] engine/js/include/*.h models/fused/csrc/*.[ch]* data/augment/csrc/*.c))

.PHONY: setup browser check test test-all demo bench docs results wasm clean

# Redone only when what it installs has changed.
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "QuickNet needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,report,export,video,heic,dev]'
	$(BIN)/python -m quicknet.models.fused
	$(BIN)/python -m quicknet.engine
	touch $@

setup: $(VENV)/.done

# What the tests of the page drive Chromium by; Chromium itself is the system's.
browser: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'

# Style, types, and the direction of imports; under a minute.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-all: check
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m 'slow or not slow'

# Draws ten classes of scenes, trains, evaluates, predicts; no network, no data set.
demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/demo.sh

# bench_quantize.py measures accuracy, of a run folder that it is given.
bench: setup
	for script in $(filter-out benchmarks/bench_quantize.py,$(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$script || exit 1; done

# Re-generates the tables and help texts that README and docs carry.
docs results: setup
	$(BIN)/python docs/generate.py

# Makes the WebAssembly modules in the package again, after a change of its sources; needs clang, wasm-ld and wasm-opt.
wasm: setup engine-wasm
	cp $(ENGINE_OUT)/quicknet.wasm $(ENGINE_OUT)/quicknet-plain.wasm $(ENGINE_DIR)/js/
	$(BIN)/python -m quicknet.engine.wasm "$$($(WASM_CLANG) --version | head -n 1)" "$$($(WASM_OPT) --version)"

clean:
	rm -rf $(VENV) build dist demo

# `make engine` and `make engine-wasm`: the engine without Python, into build/engine/.
include src/quicknet/engine/engine.mk
