# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Programs of core/'s proof. `make check` runs UNIT in this order; `make unit` builds them all.
UNIT_NAMES := records bytes wakeup seal move hostile extent layout
UNIT_PROGS := $(UNIT_NAMES:%=$(BUILD)/tests/unit/%)
SAN_PROGS := $(UNIT_NAMES:%=$(BUILD)/tests/san/%)
SAN_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
UNIT += tests/abi/golden $(UNIT_PROGS) $(SAN_PROGS)

CORE_SRCS := $(CORE_OBJS:$(BUILD)/%.o=%.c)
TEST_CC = $(CC) $(CPPFLAGS) $(CFLAGS)

$(BUILD)/tests/unit/%: tests/unit/%.c $(CORE_LIB)
	@mkdir -p $(@D)
	$(TEST_CC) -o $@ $< $(CORE_LIB) -lcmocka -lpthread

$(BUILD)/tests/san/%: tests/unit/%.c $(CORE_SRCS)
	@mkdir -p $(@D)
	$(TEST_CC) $(SAN_FLAGS) -o $@ $< $(CORE_SRCS) -lcmocka -lpthread

.PHONY: unit
unit: $(UNIT_PROGS) $(SAN_PROGS) ## build core's unit tests and run them, also under the sanitizers
	@for t in $(UNIT_PROGS) $(SAN_PROGS); do echo "# $$t"; $$t || exit 1; done
