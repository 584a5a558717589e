# SPDX-License-Identifier: GPL-2.0-only
.PHONY: assumptions
assumptions: ## ask this host and the guest kernel whether what we rely on is so
	@docs/assumptions/run

UNIT += docs/assumptions/run
