/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Conversations: found from either end, forgotten when idle. */
#ifndef ZT_FLOW_H
#define ZT_FLOW_H

#include "zt_parse.h"

#define ZT_SECOND 1000000000ull
#define ZT_IDLE_TCP (3600 * ZT_SECOND)
#define ZT_IDLE_TCP_CLOSING (10 * ZT_SECOND)
#define ZT_IDLE_UDP (180 * ZT_SECOND)
#define ZT_IDLE_OTHER (30 * ZT_SECOND)

static __always_inline bool zt_is_tombstone(__u64 judged)
{
	return (judged & 0xff) >= ZT_FIRST_DROP;
}

/* Fill the passage's flow key, and say which way a packet between these ends goes. */
static __always_inline void zt_flow_key_of(struct zt_passage *passage, const __u32 *source,
					   const __u32 *destination, __u16 source_port,
					   __u16 destination_port, __u8 protocol)
{
	struct zt_flow_key *key = &passage->key;
	bool from_high = source_port > destination_port;
	int i;

#pragma clang loop unroll(full)
	for (i = 3; i >= 0; i--)
		if (source[i] != destination[i])
			from_high = source[i] > destination[i];
	__builtin_memcpy(key->low, from_high ? destination : source, sizeof(key->low));
	__builtin_memcpy(key->high, from_high ? source : destination, sizeof(key->high));
	key->low_port = from_high ? destination_port : source_port;
	key->high_port = from_high ? source_port : destination_port;
	key->family = passage->packet.family;
	key->protocol = protocol;
	key->pad[0] = key->pad[1] = 0;
	passage->from_high = from_high;
}

/* The key of the packet's own flow. */
static __always_inline void zt_flow_key_of_packet(struct zt_passage *passage)
{
	const struct zt_packet *packet = &passage->packet;

	zt_flow_key_of(passage, packet->source, packet->destination, packet->source_port,
		       packet->destination_port, packet->protocol);
}

/* TCP that was reset, or that both ends finished. */
static __always_inline bool zt_flow_is_closing(const struct zt_flow *flow)
{
	const __u8 both = ZT_FLOW_FIN_SOURCE | ZT_FLOW_FIN_OTHER;

	return flow->flags & ZT_FLOW_RESET || (flow->flags & both) == both;
}

static __always_inline bool zt_flow_is_expired(const struct zt_flow *flow, __u8 protocol, __u64 now)
{
	__u64 idle = ZT_IDLE_OTHER;

	if (protocol == ZT_PROTO_TCP)
		idle = zt_flow_is_closing(flow) ? ZT_IDLE_TCP_CLOSING : ZT_IDLE_TCP;
	else if (protocol == ZT_PROTO_UDP)
		idle = ZT_IDLE_UDP;
	/* Signed: another CPU may have stamped it after we read the clock. */
	return (__s64)(now - flow->last_ns) > (__s64)idle;
}

static __always_inline bool zt_flow_is_forward(const struct zt_flow *flow,
					       const struct zt_passage *passage)
{
	return passage->from_high == (flow->flags & ZT_FLOW_FROM_HIGH);
}

/* The packet went on. */
static __always_inline void zt_flow_touch(struct zt_flow *flow, const struct zt_passage *passage)
{
	bool is_forward = zt_flow_is_forward(flow, passage);
	__u8 flags = 0;

	/* The clock of established packets may lag behind that of the first. */
	if ((__s64)(passage->now - flow->last_ns) > 0)
		flow->last_ns = passage->now;
	if (is_forward) {
		__sync_fetch_and_add(&flow->packets[0], passage->packet.packets);
		__sync_fetch_and_add(&flow->bytes[0], passage->packet.bytes);
	} else {
		__sync_fetch_and_add(&flow->packets[1], passage->packet.packets);
		__sync_fetch_and_add(&flow->bytes[1], passage->packet.bytes);
	}
	if (passage->packet.tcp_flags & ZT_TCP_FIN)
		flags |= is_forward ? ZT_FLOW_FIN_SOURCE : ZT_FLOW_FIN_OTHER;
	if (passage->packet.tcp_flags & ZT_TCP_RST)
		flags |= ZT_FLOW_RESET;
	if (flags & ~flow->flags)
		flow->flags |= flags;
}

#endif
