# SPDX-License-Identifier: GPL-2.0-only
# The one entry point. `make help` lists the targets. Each part adds its own in <part>/module.mk:
#   ALL        what `make` builds             CLEAN      what `make clean` removes besides build/
#   UNIT       test programs, fast ones first, run by `make check` (exit 0 pass, 77 skip)
#   LINTERS    phony targets run by `make lint`
SHELL := /bin/bash
.DEFAULT_GOAL := all
BUILD := build
VERSION := 0.1.0

CC ?= gcc
CPPFLAGS += -Iinclude -I. -D_GNU_SOURCE -DSHUNT_VERSION='"$(VERSION)"'
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu11 -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Werror=implicit-function-declaration -MMD -MP

ALL :=
UNIT :=
LINTERS :=
CLEAN :=

include $(sort $(wildcard core/module.mk daemon/module.mk cli/module.mk lib/module.mk kmod/module.mk tests/module.mk tests/lint/module.mk docs/assumptions/module.mk lab/module.mk bench/module.mk man/module.mk))

.PHONY: all help clean lint
all: $(ALL) ## build everything: daemon, CLI, module for the lab's guest kernels

lint: $(LINTERS) ## style, sparse, static analysis, shellcheck

clean: ## remove what was built (not the lab's cache)
	rm -rf $(BUILD) $(CLEAN)

help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST) | sort

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
