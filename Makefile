# make demo   the whole job on real images          make test        everything
# make help   all targets                           make test-fast   a minute

# the first that really runs: a name on the PATH may be a shim of a version manager
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
CURATE ?= $(BIN)/curate
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help setup setup-dev demo test test-fast check docs gpu-check bench clean
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "curate needs Python 3.11 or newer; found $$($(PYTHON) --version). Name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing curate[demo] into $(VENV) (torch comes with it: a few GB, some minutes)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing curate[demo,dev,ray,s3] into $(VENV) (torch comes with it: a few GB, some minutes)"
	@if test -e $(VENV)/.gpu; then $(BIN)/python -m pip uninstall -q -y faiss-gpu && rm $(VENV)/.gpu; fi
	@$(PIP) -e '.[demo,dev,ray,s3]'
	@$(PIP) --no-deps clip-benchmark  # only its class names are read; its own needs are large
	@$(PIP) --no-deps --ignore-requires-python rapidocr-onnxruntime  # only its weights are read; it wants a second OpenCV
	@touch $@ $(VENV)/.demo

# faiss-gpu stands in the place of faiss-cpu: both have the same files
$(VENV)/.gpu: $(VENV)/.dev
	@$(BIN)/python -c 'import torch; exit(None if torch.cuda.is_available() else "gpu-check: torch finds no CUDA device here")'
	@echo "installing faiss-gpu into $(VENV), in the place of faiss-cpu (1 GB with CUDA 12's libraries)"
	@$(BIN)/python -m pip uninstall -q -y faiss-cpu
	@if $(PIP) faiss-gpu; then touch $@; else $(PIP) faiss-cpu; echo "no faiss-gpu: the search by it fails"; fi

setup: $(VENV)/.demo ## the virtual environment with all that the demo needs
setup-dev: $(VENV)/.dev ## ... and what the tests need

demo: $(VENV)/.demo ## harvest, dedup, train, filter, train again, evaluate and report on real images (6 to 10 minutes on 2 cores)
	@$(BIN)/python -m curate.demo run --out demo-out

test: $(VENV)/.dev ## every check and every test (under 10 minutes on 2 cores)
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

test-fast: $(VENV)/.dev ## the tests that take no model, no browser, no cluster (a minute)
	@$(BIN)/python -m pytest -n 2 --dist each --apart -o console_output_style=classic -m "not slow and not gpu"

check: $(VENV)/.dev ## lint and types
	@$(BIN)/ruff check curate tests benchmarks && $(BIN)/ruff format --check -q curate tests benchmarks && $(BIN)/mypy

docs: $(VENV)/.dev ## write docs/commands/*.md anew from the commands' own help
	@$(BIN)/python docs/generate.py

gpu-check: $(VENV)/.gpu ## what only a GPU can prove, in parts of at most 10 minutes each; PARTS="answers search": some
	@$(BIN)/python benchmarks/gpu_check.py $(PARTS)

bench: $(VENV)/.dev ## matching beside other matchers, into benchmarks/results/ (the others say in their first lines what they need)
	@$(PIP) -e '.[bench]'
	@$(BIN)/python benchmarks/match_vs_ahocorasick.py

clean: ## what the demo made; the virtual environment stays
	rm -rf demo-out

# ---- batch runs: make harvest|dedup|filter|train RUN=runs/name.mk -------------------------------------------------
# A run file sets POOLS, QUERIES, OUT and the options of each stage (see runs/example.mk). Every stage writes to a name
# that holds a checksum of its own options and of all before it, so a second make does nothing, a changed option runs
# only what depends on it, and going back to the old option finds the old result.
RUN ?=
ifneq ($(RUN),)
include $(RUN)
endif
OUT ?= out
sum = $(shell printf '%s' '$(subst ','\'',$(1))' | cksum | cut -d' ' -f1)
H1 := $(call sum,$(POOLS)|$(QUERIES)|$(HARVEST_OPTIONS))
H2 := $(call sum,$(H1)|$(DEDUP_OPTIONS))
H3 := $(call sum,$(H2)|$(FILTER_OPTIONS))
H4 := $(call sum,$(H3)|$(TRAIN_OPTIONS))
DATASET := $(OUT)/dataset-$(H1)
CLEAN := $(OUT)/clean-$(H3)
MODEL := $(OUT)/model-$(H4)
LOCAL_POOLS = $(wildcard $(POOLS)) $(wildcard $(QUERIES))

.PHONY: harvest dedup filter train run-file
run-file:
	@test -n '$(RUN)' || { echo 'name a run file: make train RUN=runs/example.mk'; exit 1; }
harvest: run-file $(OUT)/.done/harvest-$(H1) ## RUN=file: pools to shards
dedup: run-file $(OUT)/.done/dedup-$(H2) ## RUN=file: ... and the duplicates out
filter: run-file $(CLEAN)/manifest.json ## RUN=file: ... and the clean dataset exported
train: run-file $(MODEL)/model.pt ## RUN=file: ... and a model trained on it

$(OUT)/.done/harvest-$(H1): $(LOCAL_POOLS)
	$(CURATE) harvest $(POOLS) $(if $(QUERIES),--queries $(QUERIES)) --out $(DATASET) $(HARVEST_OPTIONS)
	@mkdir -p $(@D) && touch $@
$(OUT)/.done/dedup-$(H2): $(OUT)/.done/harvest-$(H1)
	$(CURATE) dedup $(DATASET) --from all --name dedup-$(H2) $(DEDUP_OPTIONS)
	@mkdir -p $(@D) && touch $@
$(CLEAN)/manifest.json: $(OUT)/.done/dedup-$(H2)
	$(CURATE) filter $(DATASET) --from dedup-$(H2) --name filter-$(H3) --out $(CLEAN) $(FILTER_OPTIONS)
$(MODEL)/model.pt: $(CLEAN)/manifest.json
	$(CURATE) train-clip $(CLEAN) --out $(MODEL) $(TRAIN_OPTIONS)
