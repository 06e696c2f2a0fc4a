/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets in fragments: only the first one says of which conversation it is, so the others are judged
 * as it was, by its ports, while it is remembered. Whatever covers a byte twice poisons the packet: a
 * later fragment must not rewrite the header that the first was judged by (RFC 1858, RFC 5722). */
#ifndef ZT_FRAG_H
#define ZT_FRAG_H

#include "zt_flow.h"

#define ZT_FRAG_LIFE (30 * ZT_SECOND)

/* All of it was here, or it took too long. */
static __always_inline bool zt_frag_is_over(const struct zt_frag *frag, __u64 now)
{
	return (frag->total && frag->covered == frag->total) ||
	       (__s64)(now - frag->created_ns) > (__s64)ZT_FRAG_LIFE;
}

static __always_inline bool zt_frag_overlaps(const struct zt_frag *frag, __u16 from, __u16 to,
					     bool is_last)
{
	bool overlaps = from < frag->covered;
	int i;

	if (frag->total) /* the end is known: nothing lies beyond it, and there is only one */
		overlaps |= is_last || to > frag->total;
#pragma clang loop unroll(full)
	for (i = 0; i < ZT_FRAG_PIECES; i++) {
		overlaps |= from < frag->to[i] && to > frag->from[i];
		overlaps |= is_last && frag->to[i] > to;
	}
	return overlaps;
}

/* Note that FROM to TO is covered now too; false where there is no room to. Two CPUs that note pieces of
 * one packet at once may lose one; what the first fragment covers is noted before there is a second. */
static __always_inline bool zt_frag_cover(struct zt_frag *frag, __u16 from, __u16 to)
{
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < ZT_FRAG_PIECES; i++)
		if (frag->to[i] && frag->from[i] == to) {
			to = frag->to[i];
			frag->from[i] = frag->to[i] = 0;
		}
	if (from == frag->covered) {
		frag->covered = to;
		return true;
	}
#pragma clang loop unroll(full)
	for (i = 0; i < ZT_FRAG_PIECES; i++)
		if (frag->to[i] == from) {
			frag->to[i] = to;
			return true;
		}
#pragma clang loop unroll(full)
	for (i = 0; i < ZT_FRAG_PIECES; i++)
		if (!frag->to[i]) {
			frag->from[i] = from;
			frag->to[i] = to;
			return true;
		}
	return false;
}

/* Remember the first fragment; a fault where that would begin a packet anew that is not over. */
static __always_inline int zt_frag_begin(const struct zt_passage *passage, struct zt_frag_key *key,
					 struct zt_frag *known)
{
	const struct zt_packet *packet = &passage->packet;
	struct zt_frag frag = {
		.created_ns = passage->now,
		.source_port = packet->source_port,
		.destination_port = packet->destination_port,
		.covered = packet->fragment_to,
		.protocol = packet->protocol,
		.icmp_type = packet->icmp_type,
		.flags = packet->is_tracked ? ZT_FRAG_TRACKED : 0,
	};

	if (known && !zt_frag_is_over(known, passage->now)) {
		known->flags |= ZT_FRAG_POISONED;
		return ZT_FRAGMENT;
	}
	/* Where there is no room for it, the rest will be dropped. */
	zt_frags_update(key, &frag);
	return 0;
}

/* Let a later fragment be what its first was; a fault where that is not known, or poisoned. */
static __always_inline int zt_frag_follow(struct zt_passage *passage, struct zt_frag *frag)
{
	struct zt_packet *packet = &passage->packet;

	if (!frag || zt_frag_is_over(frag, passage->now) || frag->flags & ZT_FRAG_POISONED)
		return ZT_FRAGMENT;
	if (zt_frag_overlaps(frag, packet->fragment_from, packet->fragment_to, packet->is_last)) {
		frag->flags |= ZT_FRAG_POISONED;
		return ZT_FRAGMENT;
	}
	if (!zt_frag_cover(frag, packet->fragment_from, packet->fragment_to))
		return ZT_FRAGMENT;
	if (packet->is_last)
		frag->total = packet->fragment_to;
	packet->source_port = frag->source_port;
	packet->destination_port = frag->destination_port;
	packet->protocol = frag->protocol;
	packet->icmp_type = frag->icmp_type;
	packet->is_tracked = frag->flags & ZT_FRAG_TRACKED;
	return 0;
}

/* For every fragment of a packet, before it is judged. KEEP: may it be remembered? */
static __always_inline void zt_follow_fragment(struct zt_passage *passage, bool keep)
{
	struct zt_packet *packet = &passage->packet;
	struct zt_frag_key key = {
		.id = packet->fragment_id,
		.family = packet->family,
		.protocol = packet->family == 4 ? packet->protocol : 0,
		.origin = passage->origin,
	};
	struct zt_frag *frag;

	if (!keep || packet->is_error) {
		if (packet->fragment_from)
			packet->fault = ZT_FRAGMENT;
		return;
	}
	__builtin_memcpy(key.source, packet->source, sizeof(key.source));
	__builtin_memcpy(key.destination, packet->destination, sizeof(key.destination));
	frag = zt_frags_lookup(&key);
	packet->fault = packet->fragment_from ? zt_frag_follow(passage, frag) :
						zt_frag_begin(passage, &key, frag);
}

#endif
