# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The load program is static: it runs in guests as they are.
BENCH_LOAD := $(BUILD)/bench/load
ALL += $(BENCH_LOAD)

$(BENCH_LOAD): $(wildcard bench/load/*.c bench/load/*.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(CFLAGS)) -static -o $@ $(filter %.c,$^) -lpthread

UNIT += tests/bench/figures

.PHONY: bench
bench: ## the full comparison: network, Shunt and rivals (BENCH="--quick ..."); an hour, quick 5 minutes
	@lab/setup
	@$(MAKE) --no-print-directory all
	@bench/run $(BENCH)
