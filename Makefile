# make demo   set everything up, start the service, train on real data, write a report (about three minutes)
# make test   set everything up and run the tests
# make test-gpu   the tests that need a CUDA device
# make faults random programs and kill -9 against the service, held against a model of it
# make check  lint, types, import directions
.PHONY: demo test test-gpu faults check bench clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

demo: $(READY)
	$(BIN)/python -m demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

faults: $(READY)
	$(BIN)/python -m tests.faults --programs 2000 --kills 200

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/hot_path.py
	$(BIN)/python -m benchmarks.env

# Set up once; again only when what it depends on has changed.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	rm -rf bss_scheduler.egg-info  # an old one would hide policies that were added since
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf .venv runs
