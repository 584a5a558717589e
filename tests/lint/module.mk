# SPDX-License-Identifier: GPL-2.0-only
# `make lint`: one phony target per linter; each script finds its own files.
LINT_SCRIPTS := style includes spdx docs shell python man clang-tidy
LINT_TARGETS := $(addprefix lint-,$(LINT_SCRIPTS))
LINTERS += $(LINT_TARGETS)

.PHONY: $(LINT_TARGETS)
$(LINT_TARGETS): lint-%:
	@tests/lint/$*
UNIT += tests/lint/selftest
