# make demo           set everything up, start the service, train on wrong labels, write a report (three to six minutes)
# make test           set everything up and run the tests
# make test-long      the tests that take their time for what shorter ones show in part
# make test-gpu       the tests that need a CUDA device
# make compose-test   build the containers and train in them; needs a container engine, and nothing else
# make check          lint, types, import directions, known vulnerabilities of dependencies
# make docs          the documentation as a site, in site/; warnings are errors, and nothing is taken from the network
# make bench          times beside what one would use otherwise
# make bench-peers    the hot call beside DLRover, TorchRL over Ray, Optuna and Ray Serve, each in what is in .peers
# make faults         random programs and kill -9 against the service, held against a model of it
# make mutants        a hundred faults planted in the code one by one, and whether the tests notice each
# make fuzz           a million wrong frames, messages and artefacts, and 20,000 wrong answers to a client
# make schemathesis   13,000 requests made from the OpenAPI document
# make attack         what hostile clients may ask for, and what it does to honest ones
# make load           64 checked trainers at once, for two minutes
# make soak           an hour at a steady pace, with stops and kills
# make screenshots    pictures of every view of the page, in light, dark and narrow
.PHONY: demo test test-long test-gpu compose-test check docs bench bench-peers faults mutants fuzz schemathesis attack load soak
.PHONY: screenshots clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

demo: $(READY)
	$(BIN)/python -m demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

test-long: $(READY)
	$(BIN)/python -m pytest -m long

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

compose-test:
	deploy/compose-test

faults: $(READY)
	$(BIN)/python -m tests.faults --programs 2000 --kills 200
	$(BIN)/python -m tests.faults --shared --programs 500 --kills 100

mutants: $(READY)
	$(BIN)/python -m tests.mutants

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/audit.py

docs: $(READY)
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python -m benchmarks.hot_path
	$(BIN)/python -m benchmarks.speed.loop
	$(BIN)/python -m benchmarks.speed.plans
	$(BIN)/python -m benchmarks.restart --brief
	$(BIN)/python -m benchmarks.env --repeats 3 --only 16 64

PEERS := dlrover torchrl optuna ray_serve
bench-peers: $(READY) $(PEERS:%=.peers/%)
	$(BIN)/python -m benchmarks.peers

# Beside what is in .venv, of which nothing is taken anew.
.peers/%: benchmarks/peers/rivals/%.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ -r $<
	touch $@

attack: $(READY)
	$(BIN)/python -m tests.whole.attacks

load: $(READY)
	$(BIN)/python -m benchmarks.load

soak: $(READY)
	$(BIN)/python -m benchmarks.soak --minutes 60

screenshots: $(READY)
	$(BIN)/python -m tools.screenshots

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz.frames --cases 1000000
	$(BIN)/python -m tests.fuzz.answers --cases 20000

schemathesis: $(READY)
	$(BIN)/python -m tests.fuzz.api --cases 5000

# Set up once; again only when what it depends on has changed.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements.lock
	-$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null  # on all processors; templates among them can't be
	rm -rf bss_scheduler.egg-info  # an old one would hide policies that were added since
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf .venv runs site
