# The two commands: `make demo` and `make test`. `make help` names the others.
# A script that finds the machine unfit ends with code 3; make itself prints it and ends with 2.

.DEFAULT_GOAL := help
.PHONY: help demo test setup lint unit control ui e2e proof test-kernel test-install bench-datapath bench-control dist test-vagrant lock clean

# What this machine must have; a test skipped for want of it fails. Example:
#   make test ZT_REQUIRE=root,bpf,wireguard,lab
ZT_REQUIRE ?=
# More arguments for pytest: make unit PYTEST_ARGS="-k policy"
PYTEST_ARGS ?=
export ZT_REQUIRE PYTEST_ARGS

help: ## name the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: ## set up this machine, build scenarios/3node.yaml, prove it, and leave it standing
	@tools/setup.sh
	@tools/demo.sh

test: ## set up this machine, then run every check and every test
	@tools/setup.sh
	-@tools/prometheus.sh
	-@tools/browser.sh
	-@tools/postgresql.sh
	@tools/test.sh

setup: ## Debian packages, headers for bcc, .venv
	@tools/setup.sh

lint: ## format, lint, types
	@tools/setup.sh
	@tools/test.sh format lint types

unit: ## unit and contract tests
	@tools/setup.sh
	@tools/test.sh unit

control: ## coordinators as processes, and the stores' tests on PostgreSQL
	@tools/setup.sh
	-@tools/postgresql.sh
	@tools/test.sh control

ui: ## the pages in a real browser; screenshots in build/screenshots/
	@tools/setup.sh
	@tools/browser.sh
	@tools/test.sh ui

e2e: ## kernel and end-to-end tests, and the scenarios
	@tools/setup.sh
	-@tools/prometheus.sh
	@tools/test.sh programs e2e

proof: ## the TC programs against the model of them, a million packets (ZT_PROOF_PACKETS)
	@tools/setup.sh
	@ZT_PROOF_PACKETS=$${ZT_PROOF_PACKETS:-1000000} tools/test.sh proof

test-kernel: ## scenarios, kernel tests and tunnels' end-to-end tests on the kernel's own WireGuard, in guests
	@tools/setup.sh zstd
	@tools/test-kernel.sh

test-install: ## install on a whole Debian (UML) as documented, with restart, upgrade and reboot
	@tools/setup.sh mmdebstrap e2fsprogs
	@.venv/bin/pytest -q tests/install
	@tools/test-install.sh

bench-datapath: ## what verdicts, policy changes, TCP, logs and the start cost, beside nftables
	@tools/setup.sh ethtool
	@.venv/bin/python -m tests.bench

bench-control: ## what the control plane costs: CRUD, and thousands of simulated agents over TLS
	@tools/setup.sh
	@.venv/bin/python -m tests.bench.control

dist: ## a release in dist/: the wheel, and each program's lock
	@tools/setup.sh
	@tools/dist.sh

test-vagrant: ## virtual machines: a lab in one, and the programs as in production in four
	@tools/setup.sh
	@tools/test-vagrant.sh

lock: ## write requirements.lock anew from pyproject.toml
	@tools/lock.sh

clean: ## remove .venv, build and the tools' caches; standing labs stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
