# SPDX-License-Identifier: GPL-2.0-or-later
#
# make demo    set everything up and run the main job on our own test enclaves
# make test    set everything up and run all checks: ruff, mypy --strict, pytest
# make bench   measure speed, as ratios within one run
# make rpm     build our own packages into build/rpm/, running the unit tests on what they hold
# make dist    build sdist, wheel and SBOM into build/dist/
# make lint-rpm RPM=FILE...   run rpmlint with our check on packages
# make koji-test KOJI_SRC=DIR   play the whole game on a real Koji (tests/koji/README.md)
# make pages-test   look at report pages in a real headless Chromium; a part of `make test`
# make real-test SOURCES=DIR    a real enclave of Intel's, from source (docs/releases.md)
# make fuzz SECONDS=600         fuzz each reader for so long, guided by coverage
# make mutants  take the defences out one by one: a test must notice (hours)
# make docs    build the documentation, build/site/docs/index.html, and write docs/findings.md
# make locks   write packaging/locks/ again: newest versions, with digests, of what set-up installs
# make audit   ask whether a fault is known in what is in the locks (needs a network)
# make clean   remove everything that was made
#
# Everything is made under build/; system packages are installed when they are
# missing and this runs as root on Debian.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

ifneq ($(words $(CURDIR)),1)
$(error move the checkout: its path has a blank, which neither make nor rpmbuild can handle: $(CURDIR))
endif

PYTHON ?= python3
BUILD := build
VENV := $(BUILD)/venv
RUN := $(VENV)/bin/python
PYTEST := env --unset=PYTHONDONTWRITEBYTECODE $(RUN) -m pytest

# One more than the cores, since some tests wait, for one another too; timing is left to the benchmarks.
WORKERS ?= $(shell expr $$(nproc) + 1)

# Run what follows with its output in a log, which is shown when it fails.
step = packaging/quietly $(BUILD)/log/$(1).log '$(2)'
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint typecheck unit bench clean setup rpm dist rpmlint lint-rpm koji-test pages pages-test real-test docs site fuzz mutants locks audit

# The oldest and the newest rpmlint that the check is for.
RPMLINTS := 2.4.0 2.10.0
NEWEST_RPMLINT := $(BUILD)/rpmlint-$(lastword $(RPMLINTS))

setup: $(BUILD)/setup.stamp

$(BUILD)/setup.stamp: setup.cfg pyproject.toml packaging/install-system-packages packaging/locks/tests.txt
	@$(call step,system-packages,install missing system packages) packaging/install-system-packages
	@$(call step,venv,make a virtual environment) $(PYTHON) -m venv $(VENV)
	@$(call step,pip,install what the product and its tests need) $(PIP) --no-deps --require-hashes --requirement packaging/locks/tests.txt
	@$(call step,editable,install the product as a link to this checkout) $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup $(NEWEST_RPMLINT).stamp
	@$(RUN) -m demo.main --into $(BUILD)/demo --rpmlint $(NEWEST_RPMLINT)

# What is quick goes first. Types and documentation take one core each, and tests sometimes wait:
# together they keep all cores busy. Set-up installs while nothing else runs.
test: setup rpmlint pages
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs=3 typecheck site unit

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

typecheck: setup
	$(VENV)/bin/mypy

# A thousand processes start on the way, and each worker imports all tests: what is compiled is
# kept, whatever the caller's environment says, and the tests are compiled before, by one process.
unit: setup rpmlint pages
	@$(call step,collect,compile the tests) $(PYTEST) --collect-only --quiet
	$(PYTEST) --numprocesses $(WORKERS) --dist worksteal

rpmlint: $(RPMLINTS:%=$(BUILD)/rpmlint-%.stamp)

$(BUILD)/rpmlint-%.stamp: packaging/install-rpmlint packaging/locks/rpmlint-%.txt | setup
	@$(call step,rpmlint-$*,install rpmlint $*) packaging/install-rpmlint $* $(BUILD)/rpmlint-$*
	@touch $@

pages: $(BUILD)/pages.stamp

$(BUILD)/pages.stamp: packaging/install-chromium packaging/locks/pages.txt | setup
	@$(call step,pages,install Chromium and what drives it) packaging/install-chromium $(RUN)
	@touch $@

rpm: setup
	PYTHON=$(CURDIR)/$(RUN) packaging/build-rpm $(BUILD)/rpm

dist: setup
	PYTHON=$(CURDIR)/$(RUN) packaging/build-dist $(BUILD)/dist

lint-rpm: rpmlint
	@PYTHONPATH=rpmlint_checks:. $(NEWEST_RPMLINT)/bin/python -m sgx_enclaves_rpmlint $(or $(RPM),$(error name packages: make lint-rpm RPM="FILE..."))

# KOJI_SRC: a checkout of Koji, or the word "installed"; KOJI_MOCK: a real mock to build with.
KOJI_TESTS ?= tests/koji
koji-test: setup
	PIP_PYTHON=$(RUN) packaging/install-koji-test-packages $(BUILD)/koji-modules
	KOJI_SRC='$(or $(KOJI_SRC),$(error name a checkout of Koji: make koji-test KOJI_SRC=DIR))' \
	    KOJI_MODULES=$(BUILD)/koji-modules $(RUN) -m pytest --numprocesses 0 $(KOJI_TESTS)

pages-test: pages
	$(RUN) -m pytest --numprocesses 0 tests/integration/test_pages_in_chromium.py

# SOURCES: a directory of archives. COMPILER: a prefix, instead of the designated toolchain.
# SIGNED: a directory of the vendor's files, instead of the vendor's archive.
ENCLAVES ?= pce
real-test: setup
	$(RUN) -m sgx_enclaves verify-release sgx-2.25-dcap-1.22 $(ENCLAVES) --route=narrow \
	    --local '$(or $(SOURCES),$(error name a directory: make real-test SOURCES=DIR))' \
	    $(if $(COMPILER),--toolchain=host --tools='$(COMPILER)') $(if $(SIGNED),--signed='$(SIGNED)') \
	    --work $(BUILD)/real/work --report $(BUILD)/real/report

# atheris is not for every Python, so it is not a dependency of the tests.
SECONDS ?= 600
fuzz: setup
	@$(call step,atheris,install the fuzzer) $(PIP) atheris
	$(RUN) -m tests.fuzz $(SECONDS) $(TARGETS)

# Hours: each defence of the product is taken out, and a test must notice (tests/redteam/README.md).
mutants: setup
	$(RUN) -m tests.redteam.mutants $(MODULES)

bench: setup rpmlint
	$(RUN) -m benchmarks

# docs/findings.md is made from the code, and kept for those who read the sources.
docs: setup site
	$(RUN) packaging/findings_page.py > docs/findings.md

# build/site/docs/index.html
site: setup
	$(RUN) packaging/lay_out_docs.py $(BUILD)/site-source
	$(RUN) -m sphinx --quiet --fail-on-warning --keep-going -c docs $(BUILD)/site-source $(BUILD)/site

# Newer versions of everything that set-up installs by digest; then run the tests.
locks: setup
	@$(call step,uv,install what resolves versions) $(PIP) uv
	packaging/lock $(VENV)/bin/uv $(RPMLINTS)

# --strict: what could not be looked up is not called sound.
audit: setup
	@$(call step,audit,install what knows of faults) $(PIP) pip-audit
	$(RUN) -m pip_audit --strict --disable-pip --no-deps $(patsubst %,--requirement %,$(wildcard packaging/locks/*.txt))

clean:
	rm -rf $(BUILD)
