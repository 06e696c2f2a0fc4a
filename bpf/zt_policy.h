/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What policy says: exactly ztlab.model.policy.decide(), in a time that does not grow with the
 * number of rules. Rules are compiled to exact keys; a key's shape is the length of its port prefix,
 * or "any protocol"; zt_pairs tells which shapes exist for a pair of tags, so that only those are
 * looked up. Any deny wins, else any allow, else the default; the rule named is the first, in
 * written order, of the winning action. */
#ifndef ZT_POLICY_H
#define ZT_POLICY_H

#include "zt_maps.h"

/* One judgement, laid out as in zt_flow.judged with epoch 0. */
static __always_inline __u64 zt_judgement(__u32 verdict, __u32 rule)
{
	return (__u64)rule << ZT_JUDGED_RULE_SHIFT | verdict;
}

/* Entries are compared by rank: an allow has this bit, so any deny is less, and of one action the
 * rule written first. No match ranks last. */
#define ZT_RANK_ALLOW 0x80000000u
#define ZT_RANK_NONE 0xfffffffeu

/* The smaller one, without a branch: with one, the verifier's paths would double at each entry. */
static __always_inline __u64 zt_smaller(__u64 a, __u64 b)
{
	__s64 difference = a - b;

	asm volatile("" : "+r"(difference));
	return b + (difference & (difference >> 63));
}

static __always_inline __u64 zt_rank(__u32 rule, __u8 action)
{
	return rule | (__u64)(action & 1) << 31;
}

/* Has PAIR an entry of its own, and is that about this PROTOCOL and PORT? */
static __always_inline bool zt_is_for(const struct zt_pair *pair, __u8 protocol, __u16 port)
{
	if (!pair->action)
		return false;
	if (pair->port_bits == ZT_ANY_PROTOCOL)
		return true;
	return pair->protocol == protocol &&
	       (port & (0xffff0000u >> (pair->port_bits & 31)) & 0xffff) == pair->port;
}

ZT_APART __u64 zt_policy_decide(__u64 policy, __u32 source, __u32 destination, __u8 protocol,
				__u16 port)
{
	/* Its last bit is only there to be unknown to the verifier. */
	__u64 best = ZT_RANK_NONE | (policy & 1);
	__u32 slot = policy & ZT_POLICY_SLOT;
	int pair, shape;

#pragma clang loop unroll(disable)
	for (pair = 0; pair < 4; pair++) {
		struct zt_pair_key ends = {
			.source = pair & 1 ? ZT_TAG_ANY : source,
			.destination = pair & 2 ? ZT_TAG_ANY : destination,
			.slot = slot,
		};
		struct zt_pair *found;
		__u32 shapes;

		if (pair && !(policy & ZT_POLICY_FROM_ANY << (pair - 1)))
			continue;
		found = zt_pairs_lookup(&ends);
		if (!found)
			continue;
		if (zt_is_for(found, protocol, port))
			best = zt_smaller(best, zt_rank(found->rule, found->action));
		shapes = found->shapes;
		if (!shapes)
			continue;
#pragma clang loop unroll(disable)
		for (shape = 0; shape <= ZT_SHAPE_ANY_PROTOCOL; shape++) {
			bool is_any = shape == ZT_SHAPE_ANY_PROTOCOL;
			struct zt_policy_key key = {
				.source = ends.source,
				.destination = ends.destination,
				.port = is_any ? 0 : port & (0xffff0000u >> shape),
				.protocol = is_any ? 0 : protocol,
				.port_bits = is_any ? ZT_ANY_PROTOCOL : shape,
				.slot = slot,
			};
			struct zt_policy_value *entry;

			if (!(shapes >> shape & 1))
				continue;
			entry = zt_policy_lookup(&key);
			if (entry)
				best = zt_smaller(best, zt_rank(entry->rule, entry->action));
		}
	}
	if (best >= ZT_RANK_NONE)
		return zt_judgement(policy & ZT_POLICY_DEFAULT_ALLOW ? ZT_ALLOWED : ZT_NO_RULE, 0);
	if (best & ZT_RANK_ALLOW)
		return zt_judgement(ZT_ALLOWED, best & ~ZT_RANK_ALLOW);
	return zt_judgement(ZT_DENY_RULE, best);
}

#endif
