# make demo   the whole road, from driving footage to a report, in minutes on two CPU cores
# make test   lint, types and tests
# make clean  removes what demo and test made (not the footage in its cache)

# The first that runs and is 3.11 or 3.12 (a version manager's shim may be there and not run).
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# Waiting threads sleep instead of spinning: beside a busy neighbour a step is else up to ten times slower.
export OMP_WAIT_POLICY := passive

FOOTAGE := runs/footage
STORE := runs/driving
RUN := runs/demo
HJEPA := $(BIN)/hjepa
CORES := $(shell getconf _NPROCESSORS_ONLN)
# For two processes add --multi_gpu --num_processes 2, on a CPU too (`--cpu --num_processes 2` silently runs one).
LAUNCH := $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no \
	--dynamo_backend no --num_cpu_threads_per_process $(CORES)

.PHONY: demo test lint clean

demo: $(RUN)/report.html
	@echo "== how far each level sees"
	@$(HJEPA) horizon $(RUN)
	@echo "The report, with pictures: $(CURDIR)/$<"

$(RUN)/report.html: $(RUN)/trained
	@echo "== ask every level: the moments most like one moment, events, and what comes next"
	@$(HJEPA) query $(RUN) nearest $(STORE) --episode 2 --time 44 --count 3 --picture $(RUN)/nearest.png
	@$(HJEPA) query $(RUN) segments $(STORE) --level 3 --picture $(RUN)/segments.png
	@$(HJEPA) query $(RUN) future $(STORE) --episode 2 --time 43 --picture $(RUN)/future.png
	@echo "== report"
	@$(HJEPA) report $(RUN) --out $@

$(RUN)/trained: $(STORE)/manifest.json
	@echo "== train three levels"
	@$(LAUNCH) -m hjepa.train tiny data.store=$(STORE) run=$(RUN)
	@touch $@

$(STORE)/manifest.json: $(FOOTAGE)/fetched
	@echo "== videos into a Zarr store"
	@$(HJEPA) ingest $(FOOTAGE) --out $(STORE)

$(FOOTAGE)/fetched: | .venv/installed
	@echo "== fetch the driving footage"
	@$(BIN)/python data/driving.py --out $(FOOTAGE)
	@touch $@

.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv (a few hundred MB the first time)"
	@$(PYTHON) -c '$(FITS)' || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) torch --editable .
	@touch $@

.venv/installed-tests: .venv/installed
	@echo "== install what the tests need"
	@$(INSTALL) torch --editable '.[test]'
	@touch $@

lint: .venv/installed-tests
	$(BIN)/ruff check .
	$(BIN)/mypy hjepa

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv $(FOOTAGE) $(STORE) $(RUN)
