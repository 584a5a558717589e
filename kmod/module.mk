# SPDX-License-Identifier: GPL-2.0-only
# The guest module, built once per guest kernel release, out of tree, in build/kmod/<release>/.
# KDIRS: kernel build directories. `make module KDIR=/lib/modules/$(uname -r)/build` builds for one kernel.
KDIRS ?= $(KDIR)
ifeq ($(KDIRS),)
KDIRS := $(shell lab/shunt-lab kernel 6.1 --headers 2>/dev/null || ls -d /usr/src/linux-headers-6.1*-amd64 2>/dev/null | tail -1)
endif

KMOD_SOURCES := $(wildcard kmod/*.c kmod/*.h kmod/compat/*.h kmod/Kbuild core/*.c core/*.h core/sources.mk include/shunt/abi/*.h)

.PHONY: module sparse
module: $(KMOD_SOURCES) ## build shunt.ko for the lab's guest kernels (or KDIR=...)
	@for k in $(KDIRS); do kmod/build "$$k" $(BUILD)/kmod || exit 1; done

sparse: ## check the module with sparse
	@for k in $(KDIRS); do C=2 kmod/build "$$k" $(BUILD)/kmod-sparse || exit 1; done

ALL += module
LINTERS += sparse
