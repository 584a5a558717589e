/* SPDX-License-Identifier: GPL-2.0-only */
/* Tracepoints: events/shunt/ in tracefs. They cost nothing while off. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM shunt

#if !defined(SHUNT_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define SHUNT_TRACE_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(shunt_frame,
	TP_PROTO(u32 bdf, u32 len, u32 verdict),
	TP_ARGS(bdf, len, verdict),
	TP_STRUCT__entry(
		__field(u32, bdf)
		__field(u32, len)
		__field(u32, verdict)
	),
	TP_fast_assign(
		__entry->bdf = bdf;
		__entry->len = len;
		__entry->verdict = verdict;
	),
	TP_printk("device=%02x:%02x.%x len=%u verdict=%u", __entry->bdf >> 8,
		  (__entry->bdf >> 3) & 31, __entry->bdf & 7, __entry->len, __entry->verdict)
);

/* verdict: NF_DROP 0, NF_ACCEPT 1 (network), NF_STOLEN 2 (ring or held) */
DEFINE_EVENT(shunt_frame, shunt_transmit,
	TP_PROTO(u32 bdf, u32 len, u32 verdict), TP_ARGS(bdf, len, verdict));
/* verdict: 0 handed up, else the reason it was refused */
DEFINE_EVENT(shunt_frame, shunt_receive,
	TP_PROTO(u32 bdf, u32 len, u32 verdict), TP_ARGS(bdf, len, verdict));

TRACE_EVENT(shunt_link_state,
	TP_PROTO(u32 bdf, u32 state, u32 reason, u32 epoch),
	TP_ARGS(bdf, state, reason, epoch),
	TP_STRUCT__entry(
		__field(u32, bdf)
		__field(u32, state)
		__field(u32, reason)
		__field(u32, epoch)
	),
	TP_fast_assign(
		__entry->bdf = bdf;
		__entry->state = state;
		__entry->reason = reason;
		__entry->epoch = epoch;
	),
	TP_printk("device=%02x:%02x.%x state=%u reason=%u epoch=%u", __entry->bdf >> 8,
		  (__entry->bdf >> 3) & 31, __entry->bdf & 7, __entry->state, __entry->reason,
		  __entry->epoch)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
