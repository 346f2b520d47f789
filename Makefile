# make demo   the whole road, from driving footage to a report, in minutes on two CPU cores
# make test   lint, types and tests
# make clean  removes what demo and test made (not the footage in its cache)

PYTHON ?= $(firstword $(shell command -v python3.12 python3.11 python3))
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

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
	@$(HJEPA) horizon $(RUN)
	@echo "The report, with pictures: $(CURDIR)/$<"

$(RUN)/report.html: $(RUN)/trained
	@echo "== query every level"
	@for level in 1 2 3; do $(HJEPA) query $(RUN) nearest $(STORE) --level $$level || exit; done
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
	@echo "== install into .venv"
	@test -n "$(PYTHON)" || { echo "no Python found: Python 3.11 or 3.12 is needed (make PYTHON=...)"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "$(PYTHON) is too old: 3.11 or 3.12"; exit 2; }
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
