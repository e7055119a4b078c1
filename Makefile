# Two commands do all the set-up: `make table2` and `make test`.
PYTHON ?= python3
VENV   := .venv
RUN    := PATH="$$PWD/$(VENV)/bin:$$PATH"

.PHONY: table2 test test-cluster test-faults paper publish lock-status

table2: $(VENV)/installed
	$(RUN) snakemake --cores all results/table2.csv results/table2.md
	@cat results/table2.md

paper: $(VENV)/installed
	$(RUN) snakemake --cores all paper

test: $(VENV)/installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check .
	$(RUN) basedpyright
	$(RUN) lint-imports
	$(RUN) pytest --numprocesses logical --maxprocesses 4 --dist loadgroup

# On a SLURM of one node that the test starts and stops; needs Debian's slurm-wlm and munge.
test-cluster: $(VENV)/installed
	$(RUN) pytest tests/slurm/check_profile.py

# Kills, full disks, twins and damaged files, by chance: what tests/faults/__init__.py says.
test-faults: $(VENV)/installed
	$(RUN) pytest -s tests/faults/check_faults.py

# What a reader should see without running anything: tables and figures of a finished run, in git.
publish: paper
	$(RUN) ddrs publish results/table?.md results/table?_selected.md results/table?_comparison.md results/claims.md results/per_class_*.md results/figure*.png results/p_lower_*.png --config config.yaml --out-dir docs/results

# Whether the committed dvc.lock is of this code and config: said in one line, and no failure.
lock-status: $(VENV)/installed
	@$(RUN) ddrs lock-status

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[workflow,dev]'
	touch $@
