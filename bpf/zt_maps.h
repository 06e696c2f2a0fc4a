/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every map, and one accessor per map and operation. The maps exist in two dialects: bcc's, whose
 * compiler rewrites `map.lookup()` (and refuses it inside a macro), and libbpf's. Nothing outside
 * this file mentions a map. */
#ifndef ZT_MAPS_H
#define ZT_MAPS_H

#include "zt_passage.h"

/* zt_config: the local switches and the policy word (enum zt_config_word).
 *   writer  agent, through a shared mapping: one store per word, where a system call would copy
 *           bytes; the kernel only reads
 *
 * zt_ids, zt_nets: whose is this address? Exact first, then the longest prefix.
 *   writer  agent; the kernel only reads
 *   miss    unknown at ingress as a source; `world` as a destination or behind another interface
 *   full    the agent refuses the whole configuration
 *
 * zt_pairs, zt_policy: may this identity reach that one here? Both slots live in one map.
 *   writer  agent, into the slot that is not in force; the kernel only reads
 *   miss    the policy's default decides
 *   full    the agent refuses the whole configuration; a policy is never truncated
 *
 * zt_flows: what is known of this conversation?
 *   writer  kernel
 *   miss    a new conversation
 *   full    the least recently used goes; where even that fails, map_full
 *
 * zt_frags: of which conversation is this later fragment?
 *   writer  kernel, at the first fragment
 *   miss    the first was not seen: fragment
 *   full    the least recently used goes
 *
 * zt_quotas: how much may come from this identity?
 *   writer  agent: rate and burst; kernel: how full the bucket is
 *   miss    as much as it likes
 *   full    the agent refuses the whole configuration
 *
 * zt_hits: packets and bytes per rule. A plain array with a part for each CPU: what a per-CPU one costs
 * besides, a second look into memory for each packet, is more than all the counting.
 *   writer  kernel; the agent zeroes what a policy counted that is no longer in force
 *   full    never: the agent refuses a policy of more rules
 *
 * zt_names, zt_totals: what the numbers in zt_hits are called, and what they were before.
 *   writer  agent; the programs never look
 *
 * zt_through: packets and bytes of what went on, per identity, hook and verdict; an array like
 * zt_hits.
 *   writer  kernel
 *   full    tags beyond it are counted in zt_stats
 *
 * zt_stats: packets and bytes per identity, hook and verdict, per CPU.
 *   writer  kernel
 *   full    the packet goes its way and is counted in zt_log[ZT_UNCOUNTED]
 *
 * zt_scratch: the passage of the packet at hand, per CPU.
 *
 * zt_log: events emitted, and lost to a full ring (enum zt_log_counter), per CPU.
 * zt_events: a ring of events for each CPU, by the CPU's number, so that CPUs never wait for each
 * other; a full ring drops the event, never the packet.
 *   writer  agent, which makes the rings; kernel: the records in them
 *   miss    like a full ring */

#ifdef ZT_BCC

BPF_F_TABLE("array", __u32, __u64, zt_config, ZT_CONFIG_WORDS, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct zt_id_key, struct zt_identity, zt_ids, ZT_MAX_IDS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct zt_net_key, struct zt_identity, zt_nets, ZT_MAX_NETS,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct zt_pair_key, struct zt_pair, zt_pairs, ZT_MAX_PAIRS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct zt_policy_key, struct zt_policy_value, zt_policy, ZT_MAX_POLICY,
	    BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct zt_flow_key, struct zt_flow, zt_flows, ZT_MAX_FLOWS);
BPF_TABLE("lru_hash", struct zt_frag_key, struct zt_frag, zt_frags, ZT_MAX_FRAGS);
BPF_F_TABLE("hash", __u32, struct zt_quota, zt_quotas, ZT_MAX_QUOTAS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", __u32, struct zt_stats, zt_hits, ZT_MAX_HITS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct zt_stats, zt_through, ZT_MAX_THROUGH, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct zt_rule_key, struct zt_rule_name, zt_names, ZT_MAX_NAMES,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct zt_rule_name, struct zt_rule_total, zt_totals, ZT_MAX_TOTALS,
	    BPF_F_NO_PREALLOC);
BPF_TABLE("percpu_hash", struct zt_stats_key, struct zt_stats, zt_stats, ZT_MAX_STATS);
BPF_PERCPU_ARRAY(zt_log, __u64, ZT_LOG_COUNTERS);
BPF_PERCPU_ARRAY(zt_scratch, struct zt_passage, 1);
BPF_RINGBUF_OUTPUT(zt_ring, 1); /* only what a ring looks like */
BPF_ARRAY_OF_MAPS(zt_events, "zt_ring", ZT_MAX_EVENTS);

static __always_inline __u64 *zt_config_lookup(int word)
{
	return zt_config.lookup(&word);
}

static __always_inline struct zt_identity *zt_ids_lookup(struct zt_id_key *key)
{
	return zt_ids.lookup(key);
}

static __always_inline struct zt_identity *zt_nets_lookup(struct zt_net_key *key)
{
	return zt_nets.lookup(key);
}

static __always_inline struct zt_pair *zt_pairs_lookup(struct zt_pair_key *key)
{
	return zt_pairs.lookup(key);
}

static __always_inline struct zt_policy_value *zt_policy_lookup(struct zt_policy_key *key)
{
	return zt_policy.lookup(key);
}

static __always_inline struct zt_flow *zt_flows_lookup(struct zt_flow_key *key)
{
	return zt_flows.lookup(key);
}

static __always_inline long zt_flows_update(struct zt_flow_key *key, struct zt_flow *flow)
{
	return zt_flows.update(key, flow);
}

static __always_inline struct zt_frag *zt_frags_lookup(struct zt_frag_key *key)
{
	return zt_frags.lookup(key);
}

static __always_inline long zt_frags_update(struct zt_frag_key *key, struct zt_frag *frag)
{
	return zt_frags.update(key, frag);
}

static __always_inline struct zt_quota *zt_quotas_lookup(__u32 *tag)
{
	return zt_quotas.lookup(tag);
}

static __always_inline struct zt_stats *zt_hits_lookup(int index)
{
	return zt_hits.lookup(&index);
}

static __always_inline struct zt_stats *zt_through_lookup(int index)
{
	return zt_through.lookup(&index);
}

static __always_inline struct zt_stats *zt_stats_lookup(struct zt_stats_key *key)
{
	return zt_stats.lookup(key);
}

static __always_inline long zt_stats_insert(struct zt_stats_key *key, struct zt_stats *zero)
{
	return zt_stats.insert(key, zero);
}

static __always_inline __u64 *zt_log_lookup(int counter)
{
	return zt_log.lookup(&counter);
}

static __always_inline struct zt_passage *zt_scratch_lookup(void)
{
	int index = 0;

	return zt_scratch.lookup(&index);
}

static __always_inline struct zt_event *zt_events_reserve(void)
{
	int cpu = bpf_get_smp_processor_id();
	void *ring = zt_events.lookup(&cpu);

	return ring ? bpf_ringbuf_reserve(ring, sizeof(struct zt_event), 0) : 0;
}

static __always_inline void zt_events_submit(struct zt_event *event)
{
	bpf_ringbuf_submit(event, 0);
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, ZT_CONFIG_WORDS);
	__uint(map_flags, BPF_F_MMAPABLE);
} zt_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct zt_id_key);
	__type(value, struct zt_identity);
	__uint(max_entries, ZT_MAX_IDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct zt_net_key);
	__type(value, struct zt_identity);
	__uint(max_entries, ZT_MAX_NETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_nets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct zt_pair_key);
	__type(value, struct zt_pair);
	__uint(max_entries, ZT_MAX_PAIRS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct zt_policy_key);
	__type(value, struct zt_policy_value);
	__uint(max_entries, ZT_MAX_POLICY);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct zt_flow_key);
	__type(value, struct zt_flow);
	__uint(max_entries, ZT_MAX_FLOWS);
} zt_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct zt_frag_key);
	__type(value, struct zt_frag);
	__uint(max_entries, ZT_MAX_FRAGS);
} zt_frags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct zt_quota);
	__uint(max_entries, ZT_MAX_QUOTAS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_quotas SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct zt_stats);
	__uint(max_entries, ZT_MAX_HITS);
	__uint(map_flags, BPF_F_MMAPABLE);
} zt_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct zt_stats);
	__uint(max_entries, ZT_MAX_THROUGH);
	__uint(map_flags, BPF_F_MMAPABLE);
} zt_through SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct zt_rule_key);
	__type(value, struct zt_rule_name);
	__uint(max_entries, ZT_MAX_NAMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct zt_rule_name);
	__type(value, struct zt_rule_total);
	__uint(max_entries, ZT_MAX_TOTALS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} zt_totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct zt_stats_key);
	__type(value, struct zt_stats);
	__uint(max_entries, ZT_MAX_STATS);
} zt_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, ZT_LOG_COUNTERS);
} zt_log SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct zt_passage);
	__uint(max_entries, 1);
} zt_scratch SEC(".maps");

struct zt_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* only what a ring looks like: the agent's have their own size */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, ZT_MAX_EVENTS);
	__array(values, struct zt_ring);
} zt_events SEC(".maps");

static __always_inline __u64 *zt_config_lookup(int word)
{
	return bpf_map_lookup_elem(&zt_config, &word);
}

static __always_inline struct zt_identity *zt_ids_lookup(struct zt_id_key *key)
{
	return bpf_map_lookup_elem(&zt_ids, key);
}

static __always_inline struct zt_identity *zt_nets_lookup(struct zt_net_key *key)
{
	return bpf_map_lookup_elem(&zt_nets, key);
}

static __always_inline struct zt_pair *zt_pairs_lookup(struct zt_pair_key *key)
{
	return bpf_map_lookup_elem(&zt_pairs, key);
}

static __always_inline struct zt_policy_value *zt_policy_lookup(struct zt_policy_key *key)
{
	return bpf_map_lookup_elem(&zt_policy, key);
}

static __always_inline struct zt_flow *zt_flows_lookup(struct zt_flow_key *key)
{
	return bpf_map_lookup_elem(&zt_flows, key);
}

static __always_inline long zt_flows_update(struct zt_flow_key *key, struct zt_flow *flow)
{
	return bpf_map_update_elem(&zt_flows, key, flow, BPF_ANY);
}

static __always_inline struct zt_frag *zt_frags_lookup(struct zt_frag_key *key)
{
	return bpf_map_lookup_elem(&zt_frags, key);
}

static __always_inline long zt_frags_update(struct zt_frag_key *key, struct zt_frag *frag)
{
	return bpf_map_update_elem(&zt_frags, key, frag, BPF_ANY);
}

static __always_inline struct zt_quota *zt_quotas_lookup(__u32 *tag)
{
	return bpf_map_lookup_elem(&zt_quotas, tag);
}

static __always_inline struct zt_stats *zt_hits_lookup(int index)
{
	return bpf_map_lookup_elem(&zt_hits, &index);
}

static __always_inline struct zt_stats *zt_through_lookup(int index)
{
	return bpf_map_lookup_elem(&zt_through, &index);
}

static __always_inline struct zt_stats *zt_stats_lookup(struct zt_stats_key *key)
{
	return bpf_map_lookup_elem(&zt_stats, key);
}

static __always_inline long zt_stats_insert(struct zt_stats_key *key, struct zt_stats *zero)
{
	return bpf_map_update_elem(&zt_stats, key, zero, BPF_NOEXIST);
}

static __always_inline __u64 *zt_log_lookup(int counter)
{
	return bpf_map_lookup_elem(&zt_log, &counter);
}

static __always_inline struct zt_passage *zt_scratch_lookup(void)
{
	int index = 0;

	return bpf_map_lookup_elem(&zt_scratch, &index);
}

static __always_inline struct zt_event *zt_events_reserve(void)
{
	int cpu = bpf_get_smp_processor_id();
	void *ring = bpf_map_lookup_elem(&zt_events, &cpu);

	return ring ? bpf_ringbuf_reserve(ring, sizeof(struct zt_event), 0) : 0;
}

static __always_inline void zt_events_submit(struct zt_event *event)
{
	bpf_ringbuf_submit(event, 0);
}

#endif
#endif
