# SPDX-License-Identifier: GPL-2.0-only
DAEMON_PKGS := libsystemd jansson libconfig
DAEMON_CFLAGS := $(shell pkg-config --cflags $(DAEMON_PKGS) 2>/dev/null)
DAEMON_LIBS := $(shell pkg-config --libs $(DAEMON_PKGS) 2>/dev/null)
DAEMON_SRCS := $(filter-out daemon/main.c,$(wildcard daemon/*.c))
DAEMON_OBJS := $(DAEMON_SRCS:%.c=$(BUILD)/%.o)

SHUNTD := $(BUILD)/daemon/shuntd
ALL += $(SHUNTD)

$(BUILD)/daemon/%.o: CFLAGS += $(DAEMON_CFLAGS)

$(SHUNTD): $(BUILD)/daemon/main.o $(DAEMON_OBJS) $(BUILD)/core/libshunt-core.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS)
