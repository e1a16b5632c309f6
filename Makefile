# What a user calls: make setup, make test, make demo. `make` alone lists everything.
#
# Variables (on the command line, in the environment, or in a git-ignored .env as NAME=value lines):
#   PYTHON       the interpreter the environment is made with (3.10, 3.11 or 3.12)
#   TORCH_INDEX  one more package index for torch: PyTorch's CPU wheels on a machine without a GPU
#   DATAROOT, VERSION, SCENE   real data for the demo, in nuScenes format
#   TRAIN_ARGS   what make train-tiny hands to training/train.py instead of --synthscenes 4000
#   LOAD_ARGS    what make load and make soak hand to the load test, for example LOAD_ARGS="--seconds 60"
#   PYTEST_ARGS  what make test hands to pytest, for example PYTEST_ARGS="-m golden -x"
#   NUSCENES_SAMPLE_ROOT, NUSCENES_RESULTS_DIR, CRKD_GOLDEN_DIR   folders that tests on real data read

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What .env says counts unless the environment or the command line says otherwise; recipes see all of it.
ifneq (,$(wildcard .env))
from_env_file = $(if $(filter undefined file,$(origin $1)),$(eval export $1 := $(shell sed -n 's/^$1=//p' .env | tail -n 1)))
$(foreach name,$(shell sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' .env),$(call from_env_file,$(name)))
endif

PYTHON ?= python3
TORCH_INDEX ?=

# A sourced ROS distribution brings rclpy and the messages; without one they come as wheels and are built from text.
ifeq (,$(ROS_DISTRO))
VENV ?= .venv
EXTRAS := nuscenes,training,video,dev,ros,interfaces
else
VENV ?= .venv-$(ROS_DISTRO)
EXTRAS := nuscenes,training,video,dev
VENV_OPTIONS := --system-site-packages
endif

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PINS := constraints/py$(shell $(or $(wildcard $(BIN)/python),$(PYTHON)) -I -S -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null).txt
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints/held.txt)

# pip's whole output goes to a log, a short account of it to the screen.
SETUP_LOG := $(VENV)/setup.log
PIP_INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --constraint $(PINS)
CONDENSED := 2>&1 | tee -a $(SETUP_LOG) | awk -v terminal=$$(test -t 1 && echo 1 || echo 0) -f constraints/progress.awk \
  || { echo "error: pip failed; its whole output is in $(SETUP_LOG)" >&2; exit 1; }

.PHONY: help setup test lint format demo load soak train-tiny constraints clean distclean

help: ## this list
	@echo "crkd_ros: camera + radar 3D object detection for ROS 2"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# ------------------------------------------------------------------------------------------------------------- set-up
# One stamp for each step, written when the step has succeeded: an interrupted set-up goes on where it stopped.

setup: $(STAMPS)/interfaces ## virtual environment, pinned packages, ROS 2 interfaces (seconds when nothing changed)
	@echo "ready: $(VENV)"

$(STAMPS)/venv:
	@constraints/system_packages.sh "$(PYTHON)" "$(if $(ROS_DISTRO),,interfaces)"
	@test -f $(PINS) || { echo "error: no pins for $$($(PYTHON) --version); supported: Python 3.10 to 3.12 (make setup PYTHON=python3.11)" >&2; exit 2; }
	@echo "[1/4] virtual environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV_OPTIONS) $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: constraints/held.txt $(STAMPS)/venv
	@echo "[2/4] $(TORCH)"
	@if [ ! -e /dev/nvidiactl ] && [ -z "$(TORCH_INDEX)" ]; then \
	  echo "      No GPU here. Should pip now fetch gigabytes of nvidia-* packages, stop it and run make setup with"; \
	  echo "      TORCH_INDEX=<the index of CPU wheels that PyTorch's 'Get started' page shows>."; \
	fi
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH) setuptools $(CONDENSED)
	@touch $@

$(STAMPS)/packages: setup.py $(PINS) $(wildcard */__init__.py) $(STAMPS)/torch
	@echo "[3/4] packages: $(EXTRAS)"
	@$(PIP_INSTALL) --no-build-isolation --editable ".[$(EXTRAS)]" $(CONDENSED)
	@touch $@

$(STAMPS)/interfaces: $(wildcard interfaces/*.* interfaces/*/*.* interfaces/*/msg/*.msg) $(STAMPS)/packages
	@echo "[4/4] ROS 2 interfaces"
	@$(BIN)/python interfaces/build.py
	@touch $@

# -------------------------------------------------------------------------------------------------------------- checks

test: lint ## set up, check the style and types, run the tests
ifdef PYTEST_ARGS
	@echo "== tests: $(PYTEST_ARGS)"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	@echo "== tests, beside each other"
	@$(BIN)/python -m pytest -m "not ros" -n auto --maxprocesses 8
	@echo "== tests on ROS 2 messages and graphs, one after the other: some keep real time"
	@$(BIN)/python -m pytest -m ros
endif

lint: setup ## set up, check style, types and import layers
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import layers"
	@$(BIN)/lint-imports

format: setup ## rewrite the sources as the formatter wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# ------------------------------------------------------------------------------------------------------------ the work

demo: setup ## set up, then nuScenes format -> bag -> live detector -> boxes, scored, in out/demo (DATAROOT= VERSION= SCENE=)
	@$(BIN)/python -m rosbag_tools.demo --out out/demo \
	  $(if $(DATAROOT),--dataroot "$(DATAROOT)") $(if $(VERSION),--version "$(VERSION)") $(if $(SCENE),--scene "$(SCENE)")

train-tiny: setup ## train the small student that ships with the package, on simulated drives
	@$(BIN)/python training/train.py student_tiny --half --out out/train-tiny $(or $(TRAIN_ARGS),--synthscenes 4000)

load: setup ## the live node on six cameras and five radars: frames lost, overhead, CPU by part (about 80 s)
	@PYTHONPATH="test$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m load --out out/load $(LOAD_ARGS)

soak: setup ## the same for ten minutes: does memory grow?
	@PYTHONPATH="test$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m load --soak --out out/soak $(LOAD_ARGS)

constraints: ## resolve the exact pins anew (needs uv)
	@constraints/compile.sh

clean: ## remove what the commands wrote; the environment stays
	rm -rf out build install log .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
