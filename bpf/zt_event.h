/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One record per event, written straight into the ring: no I/O, no waiting. */
#ifndef ZT_EVENT_H
#define ZT_EVENT_H

#include "zt_count.h"
#include "zt_verdict.h"

/* Is this one of the first RATE denials of this second on this CPU? Without a bound a flood of denied
 * packets would push everything else out of the ring, and out of the collector. */
static __always_inline bool zt_may_log_denial(__u64 now, __u64 rate)
{
	__u64 *second = zt_log_lookup(ZT_LOG_DENIAL_SECOND), *denials = zt_log_lookup(ZT_LOG_DENIALS);
	__u64 this_second = now / ZT_SECOND;

	if (!second || !denials) /* never: the map is an array */
		return true;
	if (*second != this_second) {
		*second = this_second;
		*denials = 0;
	}
	*denials += 1;
	return *denials <= rate;
}

/* Emit what LOGGING asks for. Never changes a verdict: a full ring loses the event only. */
static __always_inline void zt_log_passage(const struct zt_passage *passage, __u64 logging)
{
	const struct zt_packet *packet = &passage->packet;
	bool is_denial = zt_is_tombstone(passage->judged);
	bool is_first = passage->is_first || is_denial;
	bool has_ports = packet->protocol == ZT_PROTO_TCP || packet->protocol == ZT_PROTO_UDP;
	__u64 denials = logging >> ZT_DENIALS_SHIFT;
	__u32 level = logging;
	struct zt_event *event;

	if (level == ZT_LOG_OFF || (level == ZT_LOG_FLOW && !is_first))
		return;
	if (level == ZT_LOG_FLOW && is_denial && denials &&
	    !zt_may_log_denial(passage->now, denials)) {
		zt_log_count(ZT_LOG_SUPPRESSED);
		return;
	}
	event = zt_events_reserve();
	if (!event) {
		zt_log_count(ZT_LOG_RING_FULL);
		return;
	}
	event->at_ns = event->began_ns = passage->is_exact ? passage->now : bpf_ktime_get_ns();
	__builtin_memcpy(event->source, packet->source, sizeof(event->source));
	__builtin_memcpy(event->destination, packet->destination, sizeof(event->destination));
	event->source_tag = passage->source_tag;
	event->destination_tag = passage->destination_tag;
	event->rule = passage->judged >> ZT_JUDGED_RULE_SHIFT & 0xffffff;
	event->epoch = passage->judged >> ZT_JUDGED_EPOCH_SHIFT;
	event->packets = packet->packets;
	event->bytes = packet->bytes;
	event->source_port = has_ports ? packet->source_port : 0;
	event->destination_port = has_ports ? packet->destination_port : 0;
	event->family = packet->family;
	event->protocol = packet->protocol;
	event->verdict = passage->judged & 0xff;
	event->hook = passage->hook;
	event->tcp_flags = packet->tcp_flags;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	event->flags = is_first ? ZT_EVENT_FIRST : 0;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	/* Counted first: a reader must never have seen more events than were emitted. */
	zt_log_count(ZT_LOG_EMITTED);
	zt_events_submit(event);
}

#endif
