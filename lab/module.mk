# SPDX-License-Identifier: GPL-2.0-only OR MIT
.PHONY: image

image: ## fetch and build the lab's guest kernels and image (cached in /var/cache/shunt-lab)
	@lab/setup
	@set -e; for k in $(KERNELS); do lab/shunt-lab kernel $$k; done
	@lab/shunt-lab image

.PHONY: demo
demo: ## two VMs, the same unmodified programs before and after; prints the table (DEMO="--quick ...")
	@lab/setup
	@$(MAKE) --no-print-directory all
	@lab/demo $(DEMO)

# UNIT is complete only when every makefile is read, hence the recursion; and what lab/setup installs
# may change what they say.
.PHONY: check check-unit soak
check: ## set up what is missing, run every test, fast ones first
	@lab/setup
	@$(MAKE) --no-print-directory check-programs
	@$(MAKE) --no-print-directory run-check

check-unit: ## only the tests that need no VM
	@lab/setup
	@$(MAKE) --no-print-directory check-programs
	@$(MAKE) --no-print-directory run-check-unit

soak: ## every test with its full counts (hours)
	@lab/setup
	@$(MAKE) --no-print-directory check-programs
	@$(MAKE) --no-print-directory run-soak

.PHONY: check-programs run-check run-check-unit run-soak
check-programs:
	@$(MAKE) --no-print-directory all $(UNIT)
run-check:
	@tests/run $(UNIT)
run-check-unit:
	@tests/run --no-lab $(UNIT)
run-soak:
	@tests/run --soak $(UNIT)
