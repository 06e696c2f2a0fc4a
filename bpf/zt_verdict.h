/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The verdict on one packet: the truth table of ARCHITECTURE.md, in the order it is written. */
#ifndef ZT_VERDICT_H
#define ZT_VERDICT_H

#include "zt_flow.h"
#include "zt_identity.h"
#include "zt_policy.h"

struct zt_tags {
	__u32 source;
	__u32 destination;
};

static __always_inline bool zt_is_client(const struct zt_passage *passage)
{
	return passage->policy & ZT_POLICY_CLIENT;
}

static __always_inline __u32 zt_epoch(const struct zt_passage *passage)
{
	return passage->policy >> ZT_EPOCH_SHIFT;
}

/* What two addresses mean for a conversation of this ORIGIN. Out of the tunnel an unknown source is
 * nobody's and an unknown destination is the world; into the tunnel it is the other way round. */
static __always_inline struct zt_tags zt_tags_of(const struct zt_passage *passage, __u8 origin,
						 struct zt_identity source,
						 struct zt_identity destination)
{
	struct zt_tags tags = { .source = source.tag, .destination = destination.tag };

	if (origin == ZT_ORIGIN_LOCAL)
		tags.source = passage->self_tag;
	else if (origin == ZT_ORIGIN_LAN && !tags.source)
		tags.source = ZT_TAG_WORLD;
	if (origin == ZT_ORIGIN_TUNNEL && !tags.destination)
		tags.destination = ZT_TAG_WORLD;
	return tags;
}

/* From another interface no address of a node is believed; out of the tunnel not our own, which
 * WireGuard lets through where a peer's AllowedIPs hold everything. */
static __always_inline bool zt_is_spoofed(__u8 origin, struct zt_identity source)
{
	if (origin == ZT_ORIGIN_LAN)
		return source.kind == ZT_KIND_SELF || source.kind == ZT_KIND_NODE;
	return origin == ZT_ORIGIN_TUNNEL && source.kind == ZT_KIND_SELF;
}

/* May a conversation of this ORIGIN be? SOURCE began it, PORT is DESTINATION's. Epoch included. */
static __always_inline __u64 zt_judge(const struct zt_passage *passage, __u8 origin,
				      struct zt_identity source, struct zt_identity destination,
				      __u16 port, struct zt_tags *tags)
{
	__u64 judged;

	*tags = zt_tags_of(passage, origin, source, destination);
	if (zt_is_client(passage))
		judged = zt_judgement(origin == ZT_ORIGIN_LOCAL ? ZT_ALLOWED : ZT_NOT_ESTABLISHED, 0);
	else if (zt_is_spoofed(origin, source))
		judged = zt_judgement(ZT_SPOOFED_SOURCE, 0);
	else if (origin != ZT_ORIGIN_LOCAL && !tags->source)
		judged = zt_judgement(ZT_UNKNOWN_SOURCE, 0);
	else if (!tags->destination)
		judged = zt_judgement(ZT_UNKNOWN_DESTINATION, 0);
	else if (origin == ZT_ORIGIN_LOCAL)
		judged = zt_judgement(ZT_ALLOWED, 0); /* the destination's to judge */
	else
		judged = zt_policy_decide(passage->policy, tags->source, tags->destination,
					  passage->packet.protocol, port);
	return judged | (__u64)zt_epoch(passage) << ZT_JUDGED_EPOCH_SHIFT;
}

/* The live entry of this packet's conversation, or none. A SYN begins a new one where the old one
 * is over, is a tombstone, or was begun by the other end. */
static __always_inline struct zt_flow *zt_find_flow(struct zt_passage *passage)
{
	struct zt_flow *flow = zt_flows_lookup(&passage->key);

	if (!flow || zt_flow_is_expired(flow, passage->key.protocol, passage->now))
		return 0;
	if (passage->packet.is_syn &&
	    (!zt_flow_is_forward(flow, passage) || zt_flow_is_closing(flow) ||
	     zt_is_tombstone(flow->judged)))
		return 0;
	return flow;
}

static __always_inline bool zt_open_flow(struct zt_passage *passage, __u64 judged)
{
	struct zt_flow flow = {
		.created_ns = passage->now,
		.judged = judged,
		.source_tag = passage->source_tag,
		.destination_tag = passage->destination_tag,
		.origin = passage->origin,
		.flags = passage->from_high,
	};

	zt_flow_touch(&flow, passage);
	return !zt_flows_update(&passage->key, &flow);
}

static __always_inline void zt_observe(struct zt_passage *passage, struct zt_flow *flow)
{
	/* Epoch 0: to be judged at the first packet after a flip to enforce. */
	const __u64 unjudged = zt_judgement(ZT_ALLOWED, 0);

	if (!flow) {
		if (passage->may_open)
			zt_open_flow(passage, unjudged);
		return;
	}
	/* A tombstone lives again, and still knows who began it. */
	if (zt_is_tombstone(flow->judged)) {
		flow->judged = unjudged;
		passage->is_first = 1;
	} else {
		passage->judged = zt_judgement(ZT_ESTABLISHED, 0);
	}
	zt_flow_touch(flow, passage);
}

/* A packet whose form is at fault, in enforce. */
static __always_inline __u64 zt_judge_fault(const struct zt_passage *passage)
{
	if (passage->packet.fault == ZT_MALFORMED)
		return zt_judgement(ZT_MALFORMED, 0);
	if (zt_is_spoofed(passage->origin, passage->source))
		return zt_judgement(ZT_SPOOFED_SOURCE, 0);
	if (passage->origin == ZT_ORIGIN_LOCAL) /* the destination's to judge */
		return zt_judgement(ZT_OBSERVED, 0);
	if (!zt_is_client(passage) && !passage->source_tag)
		return zt_judgement(ZT_UNKNOWN_SOURCE, 0);
	return zt_judgement(passage->packet.fault, 0);
}

/* Judge by the original direction: FLOW's where there is one, which may be an older epoch's. */
static __always_inline __u64 zt_judge_original(const struct zt_passage *passage,
					       struct zt_flow *flow)
{
	const struct zt_packet *packet = &passage->packet;
	bool is_forward = !flow || zt_flow_is_forward(flow, passage);
	struct zt_tags tags;
	__u64 judged;

	judged = zt_judge(passage, flow ? flow->origin : passage->origin,
			  is_forward ? passage->source : passage->destination,
			  is_forward ? passage->destination : passage->source,
			  is_forward ? packet->destination_port : packet->source_port, &tags);
	if (flow) {
		flow->source_tag = tags.source;
		flow->destination_tag = tags.destination;
		flow->judged = judged;
	}
	return judged;
}

static __always_inline void zt_enforce(struct zt_passage *passage, struct zt_flow *flow)
{
	__u64 judged = flow ? flow->judged : 0;

	if (!flow || judged >> ZT_JUDGED_EPOCH_SHIFT != zt_epoch(passage))
		judged = zt_judge_original(passage, flow);
	passage->judged = judged;
	if (zt_is_tombstone(judged)) {
		/* What this node began died because the far end is unknown: of a packet that comes
		 * in, that is the source. */
		if (flow && flow->origin == ZT_ORIGIN_LOCAL && passage->hook == ZT_INGRESS)
			passage->judged = (judged & ~0xffull) | ZT_UNKNOWN_SOURCE;
	} else if (flow) {
		zt_flow_touch(flow, passage);
		passage->judged = (judged & ~0xffull) | ZT_ESTABLISHED;
	} else if (passage->may_open && !zt_open_flow(passage, judged)) {
		passage->judged = zt_judgement(ZT_MAP_FULL, 0);
	} else if (passage->origin == ZT_ORIGIN_LOCAL) {
		passage->judged = zt_judgement(ZT_OBSERVED, 0);
	}
}

/* Fills the passage's results. */
static __always_inline void zt_decide(struct zt_passage *passage)
{
	const struct zt_packet *packet = &passage->packet;
	struct zt_flow *flow = 0;
	bool is_midway, is_spoofed;

	passage->judged = zt_judgement(ZT_OBSERVED, 0);
	if (passage->origin == ZT_ORIGIN_TRANSIT)
		return;
	if (packet->fault) {
		passage->is_first = packet->fault != ZT_FRAGMENT;
		if (passage->is_enforcing)
			passage->judged = zt_judge_fault(passage);
		return;
	}
	zt_flow_key_of(passage);
	/* An address that was stolen is part of no flow, and must not harm the owner's. */
	is_spoofed = zt_is_spoofed(passage->origin, passage->source);
	/* TCP in the middle of a connection nobody knows: sent by this node it opens nothing. */
	is_midway = passage->origin == ZT_ORIGIN_LOCAL && packet->protocol == ZT_PROTO_TCP &&
		    !packet->is_syn;
	passage->may_open = packet->may_open && !is_midway && !is_spoofed;
	if (packet->is_tracked && !is_spoofed)
		flow = zt_find_flow(passage);
	passage->is_first = !flow && !is_midway;
	if (passage->is_enforcing)
		zt_enforce(passage, flow);
	else
		zt_observe(passage, flow);
}

#endif
