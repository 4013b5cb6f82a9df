# Each target works alone on a machine that has Python 3.11+ and a C compiler; .venv is made on the first call.
PYTHON ?= $(firstword $(foreach v,python3.11 python3.12 python3.13 python3,$(if $(shell $(v) -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null | grep True),$(v))))
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint types clean

demo: $(READY)
	$(VENV)/bin/laconic demo

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/pyright

$(READY): pyproject.toml install.sh
	PYTHON="$(PYTHON)" sh install.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
