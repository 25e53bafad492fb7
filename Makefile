# Everything from a fresh clone with Python 3.11, pip and make; nothing else has to be there.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test test-slow check lock clean

demo: $(VENV)/ready
	$(RUN)/sls-deploy demo

test: $(VENV)/ready
	$(RUN)/python -m pytest

test-slow: $(VENV)/ready
	$(RUN)/python -m pytest -m "slow or not slow"

# mypy does not follow setuptools' package-dir mapping in place, so it checks a built copy.
check: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	rm -rf .check build
	$(RUN)/pip install --quiet --no-deps --no-build-isolation --target .check .
	MYPYPATH=.check $(RUN)/mypy -p sls_deploy

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock:
	rm -rf .lock
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet torch==2.13.0 setuptools -e '.[cpu,dev]'
	( echo "# Everything that the project, its cpu extra and its tests need; 'make lock' writes it anew."; \
	  .lock/bin/pip freeze --all --exclude pip --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/' ) > requirements.lock
	rm -rf .lock

clean:
	rm -rf $(VENV) .check build *.egg-info
