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

static __always_inline void zt_count(__u32 tag, __u8 hook, __u8 verdict, __u32 packets, __u32 bytes)
{
	struct zt_stats_key key = { .tag = tag, .hook = hook, .verdict = verdict };
	struct zt_stats zero = {}, *stats = zt_stats_lookup(&key);

	if (!stats) {
		zt_stats_insert(&key, &zero);
		stats = zt_stats_lookup(&key);
	}
	if (!stats) {
		zt_log_count(ZT_UNCOUNTED);
		return;
	}
	stats->packets += packets;
	stats->bytes += bytes;
}

/* What a rule decided. JUDGED under the policy of SLOT. */
static __always_inline void zt_count_rule(__u64 judged, __u32 slot, __u32 packets, __u32 bytes)
{
	__u32 rule = judged >> ZT_JUDGED_RULE_SHIFT & 0xffffff;
	__u8 verdict = judged;
	struct zt_stats *hits;

	if (!rule || (verdict != ZT_ALLOWED && verdict != ZT_ESTABLISHED && verdict != ZT_DENY_RULE))
		return;
	hits = zt_rules_lookup(rule << 1 | slot);
	if (!hits) {
		zt_log_count(ZT_UNCOUNTED);
		return;
	}
	hits->packets += packets;
	hits->bytes += bytes;
}

#endif
