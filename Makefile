# Two commands do everything: `make train` and `make test`. Both set up .venv first.
#   make train ARGS="recipe=toy_arm"                        another recipe or any override
#   make train TORCH_INDEX=https://download.pytorch.org/whl/cu130   a CUDA build of torch (set it on the first call)
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?= recipe=fullbody_generalist
BIN := .venv/bin

.PHONY: train test test-slow test-gpu lint setup benchmark clean

train: .venv/train
	$(BIN)/python -m mm_torch.train $(ARGS)

test: .venv/test lint
	$(BIN)/python -m pytest -q

test-slow: .venv/test
	$(BIN)/python -m pytest -q -m "slow and not gpu" --durations=15

test-gpu: .venv/test
	$(BIN)/python -m pytest -q -m gpu

lint: .venv/test
	$(BIN)/ruff check .

benchmark: .venv/train
	$(BIN)/python tools/benchmark.py

setup: .venv/test

.venv/train: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/test: .venv/train
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,smpl,hub,notebook,onnx,upstream,viewer]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
