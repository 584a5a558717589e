# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Programs of core/'s proof. `make check` runs UNIT in this order; `make unit` builds them all.
UNIT_NAMES := records bytes wakeup seal move hostile extent layout
UNIT_PROGS := $(UNIT_NAMES:%=$(BUILD)/tests/unit/%)
SAN_PROGS := $(UNIT_NAMES:%=$(BUILD)/tests/san/%)
SAN_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
STRESS_PROGS := $(BUILD)/tests/stress/processes $(BUILD)/tests/stress/threads
UNIT += tests/abi/golden tests/abi/manual $(UNIT_PROGS) $(SAN_PROGS) tests/model/drift $(STRESS_PROGS)
UNIT += tests/kmod/warnings tests/model/run tests/stress/can-fail

CORE_SRCS := $(CORE_OBJS:$(BUILD)/%.o=%.c)
TEST_CC = $(CC) $(CPPFLAGS) $(CFLAGS)

$(BUILD)/tests/unit/%: tests/unit/%.c $(CORE_LIB)
	@mkdir -p $(@D)
	$(TEST_CC) -o $@ $< $(CORE_LIB) -lcmocka -lpthread

$(BUILD)/tests/san/%: tests/unit/%.c $(CORE_SRCS)
	@mkdir -p $(@D)
	$(TEST_CC) $(SAN_FLAGS) -o $@ $< $(CORE_SRCS) -lcmocka -lpthread

.PHONY: unit
CORE_TESTS := $(UNIT_PROGS) $(SAN_PROGS) $(STRESS_PROGS)
unit: $(CORE_TESTS) ## run core's tests: ABI text, unit, sanitizers, stress, models
	@for t in tests/abi/golden tests/abi/manual $(CORE_TESTS) tests/model/drift tests/model/run tests/stress/can-fail; do \
		echo "# $$t"; $$t || exit 1; done

# one source: two processes, or two threads for the thread sanitizer. SOAK=1 makes them run a minute each
$(BUILD)/tests/stress/processes: tests/stress/ring-stress.c $(CORE_LIB)
	@mkdir -p $(@D)
	$(TEST_CC) -o $@ $< $(CORE_LIB) -lpthread

$(BUILD)/tests/stress/threads: tests/stress/ring-stress.c $(CORE_SRCS)
	@mkdir -p $(@D)
	$(TEST_CC) -O1 -g -fsanitize=thread -DTHREADS -o $@ $< $(CORE_SRCS) -lpthread
