# Short names for what developers run. PYTHON chooses the interpreter: `make test PYTHON=.venv/bin/python`.
PYTHON ?= python
SITE ?= build/site
export OMP_WAIT_POLICY = passive

.PHONY: quick test plugins check docs pages site bench bench-nanogpt gpu gpu-wheels

quick:  # within 40 seconds
	$(PYTHON) -m pytest -q -m quick

test:  # the default tests, on all cores
	$(PYTHON) -m pytest -n auto

plugins:  # the tests of each plugin, on a wheel of it over the environment at hand
	for plugin in plugins/*/; do $(PYTHON) -m nanogpt_kit plugins test $$plugin || exit 1; done

check:  # lint, format, types, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as main; main()"

docs: pages site  # build/site/index.html, which needs no network

pages:  # rewrites what comes from the code, drawings too; tests/test_docs.py fails where that was forgotten
	$(PYTHON) docs/generate.py

site:
	$(PYTHON) -m sphinx --color -q -E -W --keep-going -j auto -c docs/site -b html . $(SITE)
	cp docs/site/start.html $(SITE)/index.html

bench:  # the shapes of docs/guide/performance.md; close other programs first
	$(PYTHON) -m nanogpt_kit bench experiments/bench_cpu.toml
	$(PYTHON) -m nanogpt_kit bench experiments/bench_baby.toml
	$(PYTHON) -m nanogpt_kit bench experiments/bench_gpt2.toml

bench-nanogpt:  # the rows of docs/guide/performance.md: `make bench-nanogpt NANOGPT=DIR`, a checkout; close other programs first
	for shape in bench_cpu bench_baby "bench_baby model.dropout=0.2" bench_gpt2; do \
		$(PYTHON) -m nanogpt_kit bench $$shape --nanogpt $(NANOGPT) || exit 1; done
	for shape in "bench_baby --sample 1" "bench_baby --sample 16" "bench_gpt2 --sample 1"; do \
		$(PYTHON) -m nanogpt_kit bench $$shape sample.max_new_tokens=200 --nanogpt $(NANOGPT) --rounds 6 || exit 1; done

gpu:  # this version on one NVIDIA GPU, within ten minutes; without a GPU, or with DRY=1, only whether it runs to its end
	PYTHON=$(PYTHON) bash tests/gpu/check.sh

gpu-wheels:  # what `make gpu` installs on a machine without a network, for GPU_PYTHON=3.12: see tests/gpu/check.sh
	PYTHON=$(PYTHON) bash tests/gpu/wheels.sh
