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

include $(sort $(wildcard core/module.mk daemon/module.mk cli/module.mk lib/module.mk kmod/module.mk tests/module.mk tests/fuzz/module.mk tests/lint/module.mk docs/assumptions/module.mk lab/module.mk bench/module.mk man/module.mk))

.PHONY: all help clean lint install install-module dkms install-dkms
PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= /lib/systemd/system
MANUAL = $(wildcard man/*.[1-8])

all: $(ALL) ## build everything: daemon, CLI, module for the lab's guest kernels

lint: $(LINTERS) ## style, sparse, static analysis, shellcheck

clean: ## remove what was built (not the lab's cache)
	rm -rf $(BUILD) $(CLEAN)

install: build/daemon/shuntd build/cli/shunt ## install daemon, CLI, unit and manual pages on a host (DESTDIR=)
	install -D -m 755 build/daemon/shuntd $(DESTDIR)$(PREFIX)/sbin/shuntd
	install -D -m 755 build/cli/shunt $(DESTDIR)$(PREFIX)/bin/shunt
	install -D -m 644 contrib/systemd/shuntd.service $(DESTDIR)$(UNITDIR)/shuntd.service
	[ -e $(DESTDIR)$(SYSCONFDIR)/shunt/shuntd.conf ] || \
		install -D -m 644 contrib/systemd/shuntd.conf $(DESTDIR)$(SYSCONFDIR)/shunt/shuntd.conf
	@for m in $(MANUAL); do install -D -m 644 $$m $(DESTDIR)$(PREFIX)/share/man/man$${m##*.}/$${m#man/}; done

install-module: ## build shunt.ko for the running kernel and install it, in a guest (DESTDIR=, KDIR=)
	kmod/build $(or $(KDIR),/lib/modules/$(shell uname -r)/build) $(BUILD)/kmod
	install -D -m 644 $(BUILD)/kmod/$(or $(KRELEASE),$(shell uname -r))/shunt.ko \
		$(DESTDIR)/lib/modules/$(or $(KRELEASE),$(shell uname -r))/extra/shunt.ko
	[ -n "$(DESTDIR)" ] || depmod $(or $(KRELEASE),$(shell uname -r))

DKMS_TREE := $(BUILD)/dkms/shunt-$(VERSION)
dkms: ## the module's sources as a tree for dkms, in build/dkms
	rm -rf $(DKMS_TREE)
	kmod/stage $(DKMS_TREE) $(VERSION)
	sed 's/@VERSION@/$(VERSION)/' contrib/dkms/dkms.conf.in >$(DKMS_TREE)/dkms.conf
	cp LICENSES/GPL-2.0-only.txt $(DKMS_TREE)/COPYING

install-dkms: dkms ## put them into /usr/src and let dkms build and install the module, in a guest (DESTDIR=)
	rm -rf $(DESTDIR)/usr/src/shunt-$(VERSION)
	mkdir -p $(DESTDIR)/usr/src
	cp -r $(DKMS_TREE) $(DESTDIR)/usr/src/
	[ -n "$(DESTDIR)" ] || dkms install --force shunt/$(VERSION)

help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST) | sort

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
