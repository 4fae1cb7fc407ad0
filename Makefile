# The house's commands. They need Python 3.11 or newer and make; uv is fetched into .uv when there is none.
#
#   make lab       build the environment, open JupyterLab on notebook 00 (without a screen: print its address)
#   make test      build the environment, run every test once, on two cores: unit, real servers, notebooks, exercises
#   make lint      ruff and mypy --strict              make fmt        let ruff mend what it can
#   make notebooks run every notebook, write outputs   make exercises  write exercises/ from solutions/
#   make soak      the long repetitions, resumable     make upgrade    re-lock, export, re-run everything
#   make picture   the README's picture                make clean      remove environments and caches
#   make slides    notebooks as slides, shown without a network: ARGS="05 06", or all of them
#
# PYTHON=3.13 uses another Python in an environment of its own; ARGS="..." goes to JupyterLab, pytest or the slides:
# make test ARGS="-k heartbeat", and ARGS="-n 0" runs one test after the other, in the order of the files.

PYTHON ?= python3
ARGS ?=
SOAK_PYTHONS ?= 3.11 3.13
.DEFAULT_GOAL := lab

# .venv for the default Python, .venv-3.13 for PYTHON=3.13 or PYTHON=python3.13
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(subst /,-,$(patsubst /%,%,$(patsubst python%,%,$(PYTHON)))))
PY := $(VENV)/bin/python
UV := $(or $(shell command -v uv 2>/dev/null),$(CURDIR)/.uv/bin/uv)
export UV
export UV_PYTHON_DOWNLOADS := never

# Where a Python named by its version may be: PATH, pyenv, uv's own. FIND answers "3.13.0 ok /path/of/python".
PLACES = $(if $(filter 3.%,$(PYTHON)),python$(PYTHON) $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/$(PYTHON)*/bin/python) "$$("$(UV)" python find $(PYTHON) 2>/dev/null)",$(PYTHON))
ASK := import sys; v = sys.version_info; print("%d.%d.%d %s %s" % (v[0], v[1], v[2], "ok" if v >= (3, 11) else "old", sys.executable))
FIND = $(shell for p in $(PLACES); do "$$p" -c '$(ASK)' 2>/dev/null && break; done)
GIVE := Install Python 3.11 or newer, or name one that you have: make PYTHON=3.12

# An environment is stale when the lock changed, the folder moved, or its Python went away.
STALE := $(shell [ -x $(PY) ] && [ "$$(cat $(VENV)/.ok 2>/dev/null)" = "$(CURDIR)" ] || echo stale)

$(VENV)/.ok: pyproject.toml uv.lock $(STALE)
	$(eval FOUND := $(FIND))
	$(if $(FOUND),,$(error There is no $(PYTHON) here. $(GIVE)))
	$(if $(filter ok,$(word 2,$(FOUND))),,$(error $(PYTHON) is Python $(word 1,$(FOUND)), which is too old. $(GIVE)))
	$(eval EXE := $(wordlist 3,99,$(FOUND)))
	@[ -x "$(UV)" ] || { echo "Fetching uv into .uv"; rm -rf .uv; \
	  { "$(EXE)" -m venv .uv && .uv/bin/python -m pip install -q --disable-pip-version-check uv; } >/dev/null 2>&1 || \
	  { rm -rf .uv; "$(EXE)" -m pip install -q --disable-pip-version-check --target .uv uv; } >/dev/null 2>&1 || \
	  { echo "uv could not be fetched: install uv, or python3-venv (Debian, Ubuntu), and check the network." >&2; exit 2; }; }
	@echo "Building $(VENV) for Python $(word 1,$(FOUND))"
	@UV_PROJECT_ENVIRONMENT=$(VENV) "$(UV)" sync --quiet --frozen --python "$(EXE)" --extra lab --extra test --extra bench \
	  $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
	@printf '%s' "$(CURDIR)" > $@

env: $(VENV)/.ok

# JupyterLab asks nobody outside for news or updates; root has to say that it means it; no screen, no browser.
LAB := --LabApp.log_level=WARN --ServerApp.log_level=WARN --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
  --LabApp.extension_manager=readonly
SCREEN = [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || { [ "$$(uname)" = Darwin ] && [ -z "$$SSH_CONNECTION" ]; }

lab: env
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; exec $(PY) -m jupyterlab $(LAB) $$([ "$$(id -u)" != 0 ] || echo --allow-root) $$($(SCREEN) || echo --no-browser) $(ARGS)

test: env
	$(PY) -m pytest -n 2 $(ARGS)

lint: env
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

fmt: env
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

notebooks: env
	$(PY) -m labserver.school.notebooks run notebooks solutions
	$(PY) -m labserver.school.notebooks lint notebooks solutions

exercises: env
	$(PY) -m labserver exercises build

slides: env
	$(PY) -m labserver slides $(or $(ARGS),notebooks/*.ipynb)

picture: env
	$(PY) tests/real/screenshots.py --readme

soak:
	@for v in $(SOAK_PYTHONS); do $(MAKE) --no-print-directory env PYTHON=$$v || exit 2; done
	@.venv-$(firstword $(SOAK_PYTHONS))/bin/python tests/soak.py $(foreach v,$(SOAK_PYTHONS),.venv-$(v)/bin/python)

upgrade: env
	"$(UV)" lock --upgrade
	$(PY) tests/export.py
	$(MAKE) env notebooks exercises lint test

clean:
	rm -rf .venv .venv-* .uv .pytest_cache .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

stale:
.PHONY: env lab test lint fmt notebooks exercises slides picture soak upgrade clean stale
