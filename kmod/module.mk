# SPDX-License-Identifier: GPL-2.0-only
# The guest module, built once per guest kernel release, out of tree, in build/kmod/<release>/. KERNELS are the series
# the lab's guests run; tests/kmod builds for each without a single warning, W=1 and sparse included.
# KDIRS: kernel build directories. `make module KDIR=/lib/modules/$(uname -r)/build` builds for one kernel.
# Asked only when a module is built: the lab fetches the guest kernel's headers at the first use.
KERNELS = 6.1 6.12
KDIRS = $(or $(KDIR),$(foreach k,$(KERNELS),$(shell lab/shunt-lab -q kernel $(k) --headers)))

KMOD_SOURCES := $(wildcard kmod/*.c kmod/*.h kmod/compat/*.h kmod/Kbuild core/*.c core/*.h core/sources.mk include/shunt/abi/*.h)

.PHONY: module sparse
module: $(KMOD_SOURCES) ## build shunt.ko for the lab's guest kernels (or KDIR=...)
	@set -e; kdirs="$(KDIRS)"; [ -n "$$kdirs" ] || { echo "no kernel headers: give KDIR=..." >&2; exit 1; }; \
	for k in $$kdirs; do kmod/build "$$k" $(BUILD)/kmod; done

sparse: ## check the module with sparse
	@for k in $(KDIRS); do C=2 kmod/build "$$k" $(BUILD)/kmod-sparse || exit 1; done

ALL += module
LINTERS += sparse
