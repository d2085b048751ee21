# SPDX-License-Identifier: GPL-2.0-or-later
#
# make demo    set everything up and run the main job on our own test enclaves
# make test    set everything up and run all checks: ruff, mypy --strict, pytest
# make bench   measure speed, as ratios within one run
# make clean   remove everything that was made
#
# Everything is made under build/; system packages are installed when they are
# missing and this runs as root on Debian.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
BUILD := build
VENV := $(BUILD)/venv
RUN := $(VENV)/bin/python

# Run both cores, but leave timing to the benchmarks.
WORKERS ?= auto

.PHONY: demo test lint typecheck unit bench clean setup

setup: $(BUILD)/setup.stamp

$(BUILD)/setup.stamp: setup.cfg pyproject.toml packaging/install-system-packages
	packaging/install-system-packages
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: setup
	$(RUN) -m demo.main --into $(BUILD)/demo

test: lint typecheck unit

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

typecheck: setup
	$(VENV)/bin/mypy

unit: setup
	$(RUN) -m pytest --numprocesses $(WORKERS)

bench: setup
	$(RUN) -m benchmarks

clean:
	rm -rf $(BUILD)
