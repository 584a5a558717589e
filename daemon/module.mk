# SPDX-License-Identifier: GPL-2.0-only
DAEMON_PKGS := libsystemd jansson libconfig libmnl libcap-ng libseccomp
DAEMON_CFLAGS := $(shell pkg-config --cflags $(DAEMON_PKGS) 2>/dev/null)
DAEMON_LIBS := $(shell pkg-config --libs $(DAEMON_PKGS) 2>/dev/null)
DAEMON_SRCS := $(filter-out daemon/main.c,$(wildcard daemon/*.c))
DAEMON_OBJS := $(DAEMON_SRCS:%.c=$(BUILD)/%.o)

SHUNTD := $(BUILD)/daemon/shuntd
ALL += $(SHUNTD)

$(BUILD)/daemon/%.o: CFLAGS += $(DAEMON_CFLAGS)

$(SHUNTD): $(BUILD)/daemon/main.o $(DAEMON_OBJS) $(BUILD)/core/libshunt-core.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)

# Unit tests: one program per noun, against the daemon's own objects.
$(BUILD)/tests/daemon/test_config: $(BUILD)/daemon/config_group.o $(BUILD)/core/libshunt-core.a
DAEMON_UNIT := $(patsubst tests/daemon/%.c,$(BUILD)/tests/daemon/%,$(wildcard tests/daemon/test_*.c))
$(BUILD)/tests/daemon/test_%: $(BUILD)/tests/daemon/test_%.o $(BUILD)/daemon/%.o $(BUILD)/daemon/log.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS) -lcmocka

# The daemon and the CLI under sanitizers, from the same sources: what the scripted tests drive.
DAEMON_SAN := $(BUILD)/san
DAEMON_SAN_FLAGS := -O1 -g -std=gnu11 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
DAEMON_SAN_CORE := $(CORE_OBJS:$(BUILD)/%.o=%.c)
$(DAEMON_SAN)/daemon/shuntd: $(wildcard daemon/*.[ch] core/*.[ch] include/shunt/abi/*.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(DAEMON_SAN_FLAGS) $(DAEMON_CFLAGS) -o $@ daemon/main.c $(DAEMON_SRCS) $(DAEMON_SAN_CORE) $(DAEMON_LIBS)
$(DAEMON_SAN)/cli/shunt: $(wildcard cli/*.[ch] daemon/reason.[ch] include/shunt/abi/*.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(DAEMON_SAN_FLAGS) -o $@ $(wildcard cli/*.c) daemon/reason.c $(CLI_LIBS)

# The unit tests likewise; not test_sandbox, whose filter lets no leak check pass.
DAEMON_SAN_UNIT := $(patsubst $(BUILD)/tests/daemon/%,$(DAEMON_SAN)/tests/%,$(filter-out %/test_sandbox,$(DAEMON_UNIT)))
$(DAEMON_SAN)/tests/test_%: tests/daemon/test_%.c daemon/%.c daemon/log.c $(wildcard daemon/*.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(DAEMON_SAN_FLAGS) $(DAEMON_CFLAGS) -o $@ $(filter %.c,$^) $(DAEMON_LIBS) -lcmocka

$(DAEMON_SAN)/tests/test_config: daemon/config_group.c $(DAEMON_SAN_CORE)

# The scripted tests as programs: make's answer to "run this with these binaries".
DAEMON_SCRIPTED := $(BUILD)/tests/daemon/fake $(BUILD)/tests/daemon/group $(BUILD)/tests/daemon/qemu \
	$(BUILD)/tests/daemon/hostpolicy $(BUILD)/tests/daemon/cli
$(DAEMON_SCRIPTED): $(BUILD)/tests/daemon/%: tests/daemon/test_%.py tests/daemon/fakevm.py tests/daemon/harness.py \
		$(DAEMON_SAN)/daemon/shuntd $(DAEMON_SAN)/cli/shunt
	@mkdir -p $(@D)
	@printf '#!/bin/sh\nSHUNT_SANITIZED="%s" SHUNT_BUILD=%s exec python3 %s "$$@"\n' \
		'$(CC) $(DAEMON_SAN_FLAGS)' '$(DAEMON_SAN)' '$<' > $@
	@chmod +x $@

# Privileges are looked at in the product: sanitizers make system calls of their own.
DAEMON_PRIVILEGES := $(BUILD)/tests/daemon/privileges
$(DAEMON_PRIVILEGES): tests/daemon/test_privileges.py tests/daemon/fakevm.py tests/daemon/harness.py $(SHUNTD) $(SHUNT)
	@mkdir -p $(@D)
	@printf '#!/bin/sh\nSHUNT_BUILD=%s exec python3 %s "$$@"\n' '$(BUILD)' '$<' > $@
	@chmod +x $@

UNIT += $(DAEMON_UNIT) $(DAEMON_SAN_UNIT) $(DAEMON_PRIVILEGES) $(DAEMON_SCRIPTED)
