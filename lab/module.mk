# SPDX-License-Identifier: GPL-2.0-only OR MIT
.PHONY: image

image: ## fetch and build the lab's guest kernel and image (cached in /var/cache/shunt-lab)
	@lab/setup
	@lab/shunt-lab kernel
	@lab/shunt-lab image
