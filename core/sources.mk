# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The one list of what core/ consists of; read by make and by kbuild.
# core-kernel-objs: freestanding, for the module, the daemon, the library and the tests.
core-kernel-objs := ring.o producer.o consumer.o layout.o
# core-host-objs: for whoever allocates extents (the daemon) and the tests.
core-host-objs := extent.o
