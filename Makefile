# Everything from a fresh clone with Python 3.11, pip and make; nothing else has to be there.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test test-slow test-gpu check lock clean

demo: $(VENV)/ready
	$(RUN)/sls-deploy demo

# Two processes of one thread each: tiny networks gain nothing from more threads.
TEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile

test: $(VENV)/ready
	$(TEST)

test-slow: $(VENV)/ready
	$(TEST) -m "slow or not slow"

# On a machine with a GPU, in an environment of its own: docs/gpu-checklist.md.
test-gpu:
	$(PYTHON) -m pytest -m gpu -rs

# mypy does not follow setuptools' package-dir mapping in place, so it checks a built copy.
check: $(VENV)/ready .stubs/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	rm -rf .check build
	$(RUN)/pip install --quiet --no-deps --no-build-isolation --target .check .
	MYPYPATH=.check:.stubs $(RUN)/mypy -p sls_deploy

# The types of TensorRT 10.13, for mypy alone: beside our packages they would pass for TensorRT.
.stubs/ready: Makefile .ci/tensorrt_stubs.sed | $(VENV)/ready
	rm -rf .stubs
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --target .stubs \
	  tensorrt-stubs==10.13.0.35.1
	sed -i -f .ci/tensorrt_stubs.sed .stubs/tensorrt_bindings/tensorrt.pyi
	touch $@

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
	rm -rf $(VENV) .check .stubs build *.egg-info
