# SPDX-License-Identifier: GPL-2.0-only OR MIT
include core/sources.mk
# what a userland program links; kbuild builds its own objects from the same sources
CORE_OBJS := $(addprefix $(BUILD)/core/,$(core-kernel-objs) $(core-host-objs))
CORE_LIB := $(BUILD)/core/libshunt-core.a
ALL += $(CORE_LIB)

$(CORE_LIB): $(CORE_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/bench/ring-bench: bench/ring-bench.c $(CORE_LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -o $@ $< $(CORE_LIB)
ALL += $(BUILD)/bench/ring-bench

.PHONY: bench-ring
bench-ring: $(BUILD)/bench/ring-bench ## the rings between two processes beside the machine's limits
	$<
