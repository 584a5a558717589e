# SPDX-License-Identifier: GPL-2.0-only
# Fuzz targets: one program per file of FUZZ_TARGETS, core/ with hooks.h before it. The engine is clang's libFuzzer;
# without it (FUZZ_CC empty) the same programs are linked with engine.c, which mutates blindly.
FUZZ_CORE_TARGETS := ring layout
FUZZ_DAEMON_TARGETS := uplink state control config
FUZZ_TARGETS := $(FUZZ_CORE_TARGETS) $(FUZZ_DAEMON_TARGETS)
FUZZ_SECONDS ?= 60

FUZZ_CC := $(shell echo 'int LLVMFuzzerTestOneInput(void){return 0;}' | \
	clang -x c -w -fsanitize=fuzzer -o /dev/null - 2>/dev/null && echo clang)
FUZZ_FLAGS := -O1 -g -std=gnu11 -Wall -Wextra -Wno-missing-field-initializers -fno-sanitize-recover=all -fno-omit-frame-pointer
ifneq ($(FUZZ_CC),)
FUZZ_FLAGS += -fsanitize=fuzzer,address,undefined
FUZZ_ENGINE :=
else
FUZZ_FLAGS += -fsanitize=address,undefined
FUZZ_ENGINE := tests/fuzz/engine.c
endif
FUZZ_BUILD := $(BUILD)/tests/fuzz
FUZZ_COMPILE = $(or $(FUZZ_CC),$(CC)) $(CPPFLAGS) $(FUZZ_FLAGS) -MMD -MP

FUZZ_CORE_OBJS := $(addprefix $(FUZZ_BUILD)/,$(CORE_OBJS:$(BUILD)/%=%) tests/fuzz/hooks.o)
FUZZ_DAEMON_OBJS := $(addprefix $(FUZZ_BUILD)/,$(DAEMON_SRCS:%.c=%.o) tests/fuzz/world.o)
FUZZ_ENGINE_OBJS := $(addprefix $(FUZZ_BUILD)/,$(FUZZ_ENGINE:%.c=%.o))
FUZZ_PROGS := $(FUZZ_TARGETS:%=$(FUZZ_BUILD)/%)

$(FUZZ_BUILD)/core/%.o: core/%.c tests/fuzz/hooks.h
	@mkdir -p $(@D)
	$(FUZZ_COMPILE) -include tests/fuzz/hooks.h -c -o $@ $<
$(FUZZ_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_COMPILE) $(DAEMON_CFLAGS) -c -o $@ $<

$(FUZZ_CORE_TARGETS:%=$(FUZZ_BUILD)/%): $(FUZZ_BUILD)/%: $(FUZZ_BUILD)/tests/fuzz/%.o $(FUZZ_CORE_OBJS) $(FUZZ_ENGINE_OBJS)
	$(or $(FUZZ_CC),$(CC)) $(FUZZ_FLAGS) -o $@ $^
$(FUZZ_DAEMON_TARGETS:%=$(FUZZ_BUILD)/%): $(FUZZ_BUILD)/%: $(FUZZ_BUILD)/tests/fuzz/%.o $(FUZZ_CORE_OBJS) \
		$(FUZZ_DAEMON_OBJS) $(FUZZ_ENGINE_OBJS)
	$(or $(FUZZ_CC),$(CC)) $(FUZZ_FLAGS) @tests/fuzz/world.flags -o $@ $^ $(DAEMON_LIBS)

# What runs in `make check`: a minute, or an hour under `make soak` (tests/fuzz/run looks at SHUNT_SOAK).
$(FUZZ_BUILD)/all: tests/fuzz/run $(FUZZ_PROGS)
	@echo '$(DAEMON_CFLAGS)' > $(FUZZ_BUILD)/cflags
	@echo '$(DAEMON_LIBS)' > $(FUZZ_BUILD)/libs
	@printf '#!/bin/sh\nexec tests/fuzz/run --build $(FUZZ_BUILD) "$$@" $(FUZZ_TARGETS)\n' > $@
	@chmod +x $@
UNIT += $(FUZZ_BUILD)/all tests/fuzz/can-fail

.PHONY: fuzz
fuzz: $(FUZZ_BUILD)/all ## every fuzz target in turn, for FUZZ_SECONDS=60 in all (FUZZ=TARGET for one)
	@tests/fuzz/run --build $(FUZZ_BUILD) --seconds $(FUZZ_SECONDS) $(or $(FUZZ),$(FUZZ_TARGETS))
