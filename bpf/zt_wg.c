// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The two TC programs of a WireGuard interface. zt_ingress sees what came out of the tunnel,
 * zt_egress what is about to enter it. Both parse, identify, decide, count, log; in this order, and
 * in observe mode they never drop. */
#ifndef ZT_BCC
#include <stdbool.h>
#endif

#include "zt_event.h"

/* TC_ACT_UNSPEC lets filters of others behind ours have their say. */
#define ZT_PASS (-1)
#define ZT_DROP 2 /* TC_ACT_SHOT */

static __always_inline __u64 zt_config_word(int word)
{
	__u64 *value = zt_config_lookup(word);

	return value ? *(volatile __u64 *)value : 0;
}

static __always_inline __u8 zt_origin_of(struct __sk_buff *skb, int hook, __u64 policy)
{
	if (hook == ZT_INGRESS)
		return ZT_ORIGIN_TUNNEL;
	if (skb->ingress_ifindex == 0)
		return ZT_ORIGIN_LOCAL;
	if (skb->ingress_ifindex == skb->ifindex)
		return ZT_ORIGIN_TRANSIT;
	/* A client knows no identities: what it forwards is its own. */
	return policy & ZT_POLICY_CLIENT ? ZT_ORIGIN_LOCAL : ZT_ORIGIN_LAN;
}

static __always_inline __u64 zt_coarse_now(struct zt_clock *clock)
{
	__u64 tick = bpf_jiffies64();

	if (clock->tick != tick) {
		clock->tick = tick;
		clock->ns = bpf_ktime_get_coarse_ns();
	}
	return clock->ns;
}

static __always_inline void zt_mark(struct __sk_buff *skb, __u32 tag)
{
	__u32 field = tag << zt_mark_shift | zt_mark_judged;

	skb->mark = (skb->mark & ~zt_mark_mask) | (field & zt_mark_mask);
}

static __always_inline int zt_pass_through(struct __sk_buff *skb, int hook)
{
	struct zt_passage *passage = zt_scratch_lookup();
	__u64 logging;
	bool is_drop;

	if (!passage) /* never: the map is an array */
		return ZT_DROP;
	__builtin_memset(passage, 0, __builtin_offsetof(struct zt_passage, clock));
	passage->hook = hook;
	passage->is_enforcing = zt_config_word(ZT_CONFIG_MODE) == ZT_ENFORCE;
	logging = zt_config_word(ZT_CONFIG_LOGGING);
	passage->policy = zt_config_word(ZT_CONFIG_POLICY);
	passage->self_tag = zt_config_word(ZT_CONFIG_SELF);
	passage->now = zt_coarse_now(&passage->clock);
	passage->origin = zt_origin_of(skb, hook, passage->policy);

	zt_parse(skb, &passage->packet);
	zt_forget();
	zt_decide(passage);

	is_drop = zt_is_tombstone(passage->judged);
	/* What goes on is counted under the far end, what is dropped under who sent it. */
	zt_count(is_drop || hook == ZT_INGRESS ? passage->source_tag : passage->destination_tag, hook,
		 passage->judged, passage->packet.packets, passage->packet.bytes);
	zt_count_rule(passage->judged, passage->policy & ZT_POLICY_SLOT, passage->packet.packets,
		      passage->packet.bytes);
	zt_log_passage(passage, logging);
	if (is_drop)
		return ZT_DROP;
	if (hook == ZT_INGRESS)
		zt_mark(skb, passage->source_tag);
	return ZT_PASS;
}

#ifndef ZT_BCC
SEC("tc")
#endif
int zt_ingress(struct __sk_buff *skb)
{
	return zt_pass_through(skb, ZT_INGRESS);
}

#ifndef ZT_BCC
SEC("tc")
#endif
int zt_egress(struct __sk_buff *skb)
{
	return zt_pass_through(skb, ZT_EGRESS);
}

#ifndef ZT_BCC
char zt_license[] SEC("license") = "Dual BSD/GPL";
#endif
