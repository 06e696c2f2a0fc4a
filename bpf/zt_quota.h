/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How much may come from an identity: a token bucket, at what comes out of the tunnel. */
#ifndef ZT_QUOTA_H
#define ZT_QUOTA_H

#include "zt_flow.h"

#define ZT_QUOTA_SECOND (ZT_SECOND * ZT_QUOTA_FRACTION)
#define ZT_QUOTA_TRIES 8

/* Take the packet's bytes, as they are on the wire, out of its source's bucket; true where that is
 * empty. While there is anything in it a packet passes, and may leave a debt: one that was put
 * together from many segments can be larger than any bucket. Over time that is the rate, exactly. */
static __always_inline bool zt_is_over_quota(struct zt_passage *passage)
{
	__u64 now, cost, depth;
	__u32 tag = passage->source_tag;
	struct zt_quota *quota;
	int try;

	if (!(passage->policy & ZT_POLICY_QUOTAS) || passage->hook != ZT_INGRESS)
		return false;
	quota = zt_quotas_lookup(&tag);
	if (!quota || !quota->rate)
		return false;
	passage->now = bpf_ktime_get_ns();
	passage->is_exact = 1;
	now = passage->now * ZT_QUOTA_FRACTION;
	cost = passage->packet.bytes * ZT_QUOTA_SECOND / quota->rate;
	depth = quota->burst * ZT_QUOTA_SECOND / quota->rate;
#pragma clang loop unroll(disable)
	for (try = 0; try < ZT_QUOTA_TRIES; try++) {
		__u64 full_at = *(volatile __u64 *)&quota->full_at;
		__u64 from = (__s64)(full_at - now) > 0 ? full_at : now;

		if (from - now >= depth)
			return true;
		if (__sync_val_compare_and_swap(&quota->full_at, full_at, from + cost) == full_at)
			return false;
	}
	return true; /* CPUs that contend for one bucket: it is in demand enough */
}

#endif
