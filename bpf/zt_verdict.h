/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The verdict on one packet: the truth table of ARCHITECTURE.md, in the order it is written. */
#ifndef ZT_VERDICT_H
#define ZT_VERDICT_H

#include "zt_flow.h"
#include "zt_frag.h"
#include "zt_identity.h"
#include "zt_policy.h"
#include "zt_quota.h"

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
					  passage->key.protocol, port);
	return judged | (__u64)zt_epoch(passage) << ZT_JUDGED_EPOCH_SHIFT;
}

/* FLOW, or none where it is not this packet's any more. A SYN begins a new one where the old one is
 * over, is a tombstone, or was begun by the other end. */
static __always_inline struct zt_flow *zt_live(struct zt_flow *flow,
					       const struct zt_passage *passage)
{
	if (!flow || zt_flow_is_expired(flow, passage->key.protocol, passage->now))
		return 0;
	if (passage->packet.is_syn &&
	    (!zt_flow_is_forward(flow, passage) || zt_flow_is_closing(flow) ||
	     zt_is_tombstone(flow->judged)))
		return 0;
	return flow;
}

/* The bit of flow->vouched[0] for packets like this one. */
static __always_inline __u32 zt_voucher(const struct zt_flow *flow,
					const struct zt_passage *passage)
{
	return 1u << (passage->origin + (zt_flow_is_forward(flow, passage) ? 0 : ZT_ORIGIN_LOCAL));
}

/* What a flow says of its ends and its verdict, each read once: another CPU may be judging it anew. */
struct zt_known {
	__u64 judged;
	__u64 source;
	__u64 destination;
};

static __always_inline struct zt_known zt_known_of(const struct zt_flow *flow)
{
	struct zt_known known = {
		.judged = *(volatile const __u64 *)&flow->judged,
		.source = *(volatile const __u64 *)&flow->vouched[0],
		.destination = *(volatile const __u64 *)&flow->vouched[1],
	};

	return known;
}

/* Are both addresses known from an earlier packet of FLOW, in this epoch, so that the packet is
 * established without asking whose they are? */
static __always_inline bool zt_is_vouched(const struct zt_flow *flow, const struct zt_known *known,
					  const struct zt_passage *passage)
{
	__u32 epoch = zt_epoch(passage);

	return known->source >> 32 == epoch && known->destination >> 32 == epoch &&
	       known->judged >> 32 == epoch && known->source & zt_voucher(flow, passage) &&
	       !zt_is_tombstone(known->judged) &&
	       !zt_flow_is_expired(flow, passage->key.protocol, passage->now);
}

/* Say so for packets that come after this one. */
static __always_inline void zt_vouch(struct zt_flow *flow, const struct zt_passage *passage)
{
	bool is_forward = zt_flow_is_forward(flow, passage);
	__u64 source = is_forward ? passage->source_tag : passage->destination_tag;
	__u64 destination = is_forward ? passage->destination_tag : passage->source_tag;
	__u64 epoch = (__u64)zt_epoch(passage) << 32, before = flow->vouched[0];

	source = epoch | source << ZT_VOUCHED_TAG_SHIFT;
	/* What was vouched for stays where the tags are the same seen from both sides. */
	if ((before & ~0xffull) == source && flow->vouched[1] == (epoch | destination))
		source |= before & 0xff;
	flow->vouched[1] = epoch | destination;
	flow->vouched[0] = source | zt_voucher(flow, passage);
}

static __always_inline bool zt_open_flow(struct zt_passage *passage, __u64 judged)
{
	struct zt_flow *flow = &passage->opening;

	/* Exactly: by this, two flows of one key are told apart. */
	passage->now = bpf_ktime_get_ns();
	passage->is_exact = 1;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->created_ns = passage->now;
	flow->judged = judged;
	flow->source_tag = passage->source_tag;
	flow->destination_tag = passage->destination_tag;
	flow->origin = passage->origin;
	flow->flags = passage->from_high;
	zt_vouch(flow, passage);
	zt_flow_touch(flow, passage);
	return !zt_flows_update(&passage->key, flow);
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
	if (zt_is_tombstone(flow->judged) && !passage->is_quoting) {
		flow->judged = unjudged;
		passage->is_first = 1;
	} else {
		passage->judged = zt_judgement(ZT_ESTABLISHED, 0);
	}
	if (!passage->is_quoting)
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

/* What policy asks of the conversation besides its protocol: the original direction's destination port,
 * or its ICMP type. What has a flow began with an echo request. TO_LOW: was it sent to the lower end? */
static __always_inline __u16 zt_service(const struct zt_passage *passage, const struct zt_flow *flow,
					bool to_low)
{
	const struct zt_packet *packet = &passage->packet;

	if (!zt_is_icmp(packet->family, passage->key.protocol))
		return to_low ? passage->key.low_port : passage->key.high_port;
	return flow ? zt_echo_request(packet->family) : packet->icmp_type;
}

/* Judge by the original direction: FLOW's where there is one, which may be an older epoch's. */
static __always_inline __u64 zt_judge_original(const struct zt_passage *passage,
					       struct zt_flow *flow)
{
	bool is_forward = !flow || zt_flow_is_forward(flow, passage);
	bool to_low = passage->from_high == is_forward;
	struct zt_tags tags;
	__u64 judged;

	judged = zt_judge(passage, flow ? flow->origin : passage->origin,
			  is_forward ? passage->source : passage->destination,
			  is_forward ? passage->destination : passage->source,
			  zt_service(passage, flow, to_low), &tags);
	if (flow) {
		flow->source_tag = tags.source;
		flow->destination_tag = tags.destination;
		flow->judged = judged;
	}
	return judged;
}

static __always_inline void zt_establish(struct zt_passage *passage, struct zt_flow *flow,
					 __u64 judged)
{
	if (!passage->is_quoting)
		zt_flow_touch(flow, passage);
	passage->judged = (judged & ~0xffull) | ZT_ESTABLISHED;
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
	} else if (zt_is_over_quota(passage)) {
		passage->judged = (judged & ~0xffull) | ZT_OVER_QUOTA;
	} else if (flow) {
		if (!passage->is_quoting)
			zt_vouch(flow, passage);
		zt_establish(passage, flow, judged);
	} else if (passage->may_open && !zt_open_flow(passage, judged)) {
		passage->judged = zt_judgement(ZT_MAP_FULL, 0);
	} else if (passage->origin == ZT_ORIGIN_LOCAL) {
		passage->judged = zt_judgement(ZT_OBSERVED, 0);
	}
}

/* May who sent this ICMP error speak about the packet of FLOW that it quotes? Its receiver must have
 * sent that packet, and sent it to where the error comes from. About a node's own address, which is at
 * the other end of a tunnel, nobody but that node can complain. */
static __always_inline bool zt_may_complain(const struct zt_passage *passage,
					    const struct zt_flow *flow)
{
	const struct zt_packet *packet = &passage->packet;
	bool is_forward = zt_flow_is_forward(flow, passage), is_to_node, is_into_tunnel;
	__u32 other_receiver = 0, other_sender = 0;
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < 4; i++) {
		other_receiver |= packet->destination[i] ^ packet->quoted.source[i];
		other_sender |= packet->source[i] ^ packet->quoted.destination[i];
	}
	is_to_node = passage->destination.kind == ZT_KIND_NODE;
	is_into_tunnel = flow->origin == ZT_ORIGIN_TUNNEL ? !is_forward || is_to_node : is_forward;
	if (other_receiver || passage->origin == ZT_ORIGIN_LOCAL)
		return false;
	if (passage->origin == ZT_ORIGIN_TUNNEL)
		return is_into_tunnel && !(is_to_node && other_sender);
	return !is_into_tunnel && flow->origin != ZT_ORIGIN_LOCAL;
}

/* The live flow that an ICMP error quotes a packet of, or none; then the passage is about that packet. */
static __always_inline struct zt_flow *zt_quoted_flow(struct zt_passage *passage)
{
	const struct zt_tuple *quoted = &passage->packet.quoted;
	struct zt_identity source = passage->source, destination = passage->destination;
	struct zt_flow *flow;

	zt_flow_key_of(passage, quoted->source, quoted->destination, quoted->source_port,
		       quoted->destination_port, quoted->protocol);
	flow = zt_live(zt_flows_lookup(&passage->key), passage);
	if (!flow)
		return 0;
	passage->source = zt_identify(passage->packet.family, quoted->source);
	passage->destination = zt_identify(passage->packet.family, quoted->destination);
	if (zt_may_complain(passage, flow)) {
		passage->is_quoting = 1;
		return flow;
	}
	passage->source = source;
	passage->destination = destination;
	return 0;
}

/* Whose are the addresses? A client knows of nobody. */
static __always_inline void zt_identify_ends(struct zt_passage *passage)
{
	const struct zt_packet *packet = &passage->packet;
	struct zt_tags tags;

	if (!zt_is_client(passage)) {
		passage->source = zt_identify(packet->family, packet->source);
		passage->destination = zt_identify(packet->family, packet->destination);
	}
	tags = zt_tags_of(passage, passage->origin, passage->source, passage->destination);
	passage->source_tag = tags.source;
	passage->destination_tag = tags.destination;
}

/* A packet that no flow vouches for. FLOW: the entry of its key. */
static __always_inline void zt_decide_slowly(struct zt_passage *passage, struct zt_flow *flow)
{
	const struct zt_packet *packet = &passage->packet;
	bool is_midway, is_spoofed;

	zt_identify_ends(passage);
	if (passage->origin == ZT_ORIGIN_TRANSIT)
		return;
	/* An address that was stolen is part of no flow, and must not harm the owner's. */
	is_spoofed = zt_is_spoofed(passage->origin, passage->source);
	if (packet->is_fragment && !packet->fault) {
		zt_follow_fragment(passage, !is_spoofed && (passage->source_tag ||
							    zt_is_client(passage)));
		zt_flow_key_of_packet(passage);
		flow = packet->is_tracked ? zt_flows_lookup(&passage->key) : 0;
	}
	if (packet->fault) {
		passage->is_first = packet->fault != ZT_FRAGMENT;
		if (passage->is_enforcing)
			passage->judged = zt_judge_fault(passage);
		return;
	}
	/* TCP in the middle of a connection nobody knows: sent by this node it opens nothing. */
	is_midway = passage->origin == ZT_ORIGIN_LOCAL && packet->protocol == ZT_PROTO_TCP &&
		    !packet->is_syn;
	passage->may_open = packet->may_open && !is_midway && !is_spoofed;
	flow = is_spoofed ? 0 : zt_live(flow, passage);
	if (packet->is_error && !is_spoofed) {
		flow = zt_quoted_flow(passage);
		if (!flow)
			zt_flow_key_of_packet(passage);
	}
	passage->is_first = !flow && !is_midway;
	if (passage->is_enforcing)
		zt_enforce(passage, flow);
	else
		zt_observe(passage, flow);
}

ZT_APART int zt_decide_apart(__u32 has_flow)
{
	struct zt_passage *passage = zt_scratch_lookup();

	if (!passage) /* never: the map is an array */
		return 0;
	zt_decide_slowly(passage, has_flow ? zt_flows_lookup(&passage->key) : 0);
	return 0;
}

/* Fills the passage's results. */
static __always_inline void zt_decide(struct zt_passage *passage)
{
	const struct zt_packet *packet = &passage->packet;
	struct zt_flow *flow = 0;
	struct zt_known known = {};

	passage->judged = zt_judgement(ZT_OBSERVED, 0);
	zt_flow_key_of_packet(passage);
	if (packet->is_tracked && !packet->fault && passage->origin != ZT_ORIGIN_TRANSIT)
		flow = zt_flows_lookup(&passage->key);
	if (flow)
		known = zt_known_of(flow);
	if (flow && passage->is_enforcing && !packet->is_syn && !packet->is_fragment &&
	    zt_is_vouched(flow, &known, passage)) {
		bool is_forward = zt_flow_is_forward(flow, passage);
		__u32 source = known.source >> ZT_VOUCHED_TAG_SHIFT & 0xffffff;
		__u32 destination = known.destination;

		passage->source_tag = is_forward ? source : destination;
		passage->destination_tag = is_forward ? destination : source;
		if (zt_is_over_quota(passage))
			passage->judged = (known.judged & ~0xffull) | ZT_OVER_QUOTA;
		else
			zt_establish(passage, flow, known.judged);
	} else {
		zt_decide_apart(!!flow);
	}
}

#endif
