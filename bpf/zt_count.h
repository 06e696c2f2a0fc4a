/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets and bytes per identity, hook and verdict. */
#ifndef ZT_COUNT_H
#define ZT_COUNT_H

#include "zt_maps.h"

/* Per CPU, and TC runs with softirqs off: nobody else writes these words meanwhile. */
static __always_inline void zt_log_count(int counter)
{
	__u64 *value = zt_log_lookup(counter);

	if (value)
		*value += 1;
}

/* Where the counters at INDEX lie in the part that this CPU and HALF have of an array, which has twice
 * ROOM for each CPU. */
#define ZT_PART(half, room, index) ((bpf_get_smp_processor_id() << 1 | (half)) * (room) + (index))

static __always_inline struct zt_stats *zt_counters_of(__u32 tag, __u8 hook, __u8 verdict)
{
	struct zt_stats_key key = { .tag = tag, .hook = hook, .verdict = verdict };
	struct zt_stats zero = {}, *stats;

	if (verdict <= ZT_OBSERVED && tag < zt_room_tags)
		return zt_through_lookup(ZT_PART(hook, 4, verdict) * zt_room_tags + tag);
	stats = zt_stats_lookup(&key);
	if (stats)
		return stats;
	zt_stats_insert(&key, &zero);
	return zt_stats_lookup(&key);
}

static __always_inline void zt_add(struct zt_stats *stats, __u32 packets, __u32 bytes)
{
	if (!stats) {
		zt_log_count(ZT_UNCOUNTED);
		return;
	}
	stats->packets += packets;
	stats->bytes += bytes;
}

static __always_inline void zt_count(__u32 tag, __u8 hook, __u8 verdict, __u32 packets, __u32 bytes)
{
	zt_add(zt_counters_of(tag, hook, verdict), packets, bytes);
}

/* What a rule decided. JUDGED under the policy of SLOT. */
static __always_inline void zt_count_rule(__u64 judged, __u32 slot, __u32 packets, __u32 bytes)
{
	__u32 rule = judged >> ZT_JUDGED_RULE_SHIFT & 0xffffff;
	__u8 verdict = judged;

	if (!rule || (verdict != ZT_ALLOWED && verdict != ZT_ESTABLISHED && verdict != ZT_DENY_RULE))
		return;
	zt_add(rule < zt_room_rules ? zt_hits_lookup(ZT_PART(slot, zt_room_rules, rule)) : 0, packets,
	       bytes);
}

#endif
