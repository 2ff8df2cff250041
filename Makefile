# Every target works on a fresh clone: it makes .venv and installs what it needs.
SHELL := /bin/bash
PYTHON ?= python3
# Processes that `make test` shares its files out to; a test has up to five ranks of its own.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-faults fuzz check lint types imports train bench bench-long \
  bench-gpu bench-scaling bench-page report report-small clean

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV) || ( $(PYTHON) -m venv --clear --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip )

$(VENV)/.demo: pyproject.toml $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/.demo
	mkdir -p out
	$(BIN)/video-infinity generate "a red seven moving left on a navy background" \
	  --num-frames 128 --nproc-per-node 2 --output out/demo.mp4 --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

FAULTS := tests/faults tests/unit/test_checkpoint.py tests/distributed/test_resume.py
test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest --timeout 1200 $(FAULTS)

# Minutes of drawn input; `make test` draws a little of it.
fuzz: $(VENV)/.dev
	$(BIN)/python -m pytest --timeout 1800 --hypothesis-profile fuzz tests/fuzz

check: lint types imports test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

train: $(VENV)/.dev
	$(BIN)/python -m training.autoencoder
	$(BIN)/python -m training.denoiser
	$(BIN)/python -m training.export
	$(BIN)/python -m training.evaluate --card

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.growth --num-frames 128 256 --repeats 2

bench-long: $(VENV)/.dev
	$(BIN)/python -m benchmarks.growth --num-frames 128 256 2304 --steps 1 --repeats 2 --out out/bench/long.json
	$(BIN)/python -m benchmarks.growth --num-frames 2304 --ranks 2 --steps 0 --repeats 1 --out out/bench/decode.json

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu

bench-scaling: $(VENV)/.dev
	$(BIN)/python -m benchmarks.scaling --page docs/scaling.md --out benchmarks/results/scaling.json

bench-page: $(VENV)/.dev
	$(BIN)/python -m benchmarks.page

# Hours; what is measured stays measured, and an interrupted run goes on. Times want the machine
# for themselves.
report: $(VENV)/.dev
	$(BIN)/python -m benchmarks.quality --out benchmarks/results/quality --page docs/results.md
	$(BIN)/python -m benchmarks.quality --times --out benchmarks/results/quality \
	  --page docs/results.md
	$(BIN)/python -m benchmarks.quality --longest --out benchmarks/results/quality \
	  --page docs/results.md

# A few videos, to see that all of it works.
report-small: $(VENV)/.dev
	$(BIN)/python -m benchmarks.quality --small --out out/quality-small
	$(BIN)/python -m benchmarks.quality --small --times --out out/quality-small

clean:
	rm -rf $(VENV) out build dist
