# SPDX-License-Identifier: GPL-2.0-only
CLI_PKGS := jansson libmnl
CLI_LIBS := $(shell pkg-config --libs $(CLI_PKGS) 2>/dev/null)
CLI_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard cli/*.c)) $(BUILD)/daemon/reason.o

SHUNT := $(BUILD)/cli/shunt
ALL += $(SHUNT)

$(BUILD)/cli/%.o: CFLAGS += $(shell pkg-config --cflags $(CLI_PKGS) 2>/dev/null)

$(SHUNT): $(CLI_OBJS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)
