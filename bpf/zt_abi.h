/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the programs and user space say to each other: the keys and values of every map, the event
 * record, and the numbers in them. agent/abi.py says the same in Python; tests/contract/test_abi.py
 * compares the two. Numbers are never moved nor used again. Every byte of padding is named and
 * written as zero, because a hash map compares every byte of a key. Addresses are in network byte
 * order, IPv4 in the first word with the rest zero; ports are in host byte order; times are
 * nanoseconds of the kernel's monotonic clock. */
#ifndef ZT_ABI_H
#define ZT_ABI_H

#include <linux/types.h>

/* Rises with every change of a map's layout or meaning: it names the folder that maps are pinned in. */
#define ZT_SCHEMA 4

/* ztlab/model/verdict.py */
enum zt_verdict {
	ZT_ALLOWED = 1,
	ZT_ESTABLISHED = 2,
	ZT_OBSERVED = 3,

	/* drop reasons, from 16 up */
	ZT_NO_RULE = 16,
	ZT_DENY_RULE = 17,
	ZT_UNKNOWN_SOURCE = 18,
	ZT_UNKNOWN_DESTINATION = 19,
	ZT_SPOOFED_SOURCE = 20,
	ZT_FRAGMENT = 21,
	ZT_MALFORMED = 22,
	ZT_UNSUPPORTED_PROTOCOL = 23,
	ZT_NOT_ESTABLISHED = 24,
	ZT_OVER_QUOTA = 25,
	ZT_MAP_FULL = 26,
};
#define ZT_FIRST_DROP ZT_NO_RULE

enum zt_hook { ZT_INGRESS = 0, ZT_EGRESS = 1 };
enum zt_mode { ZT_OBSERVE = 0, ZT_ENFORCE = 1 };
enum zt_logging { ZT_LOG_OFF = 0, ZT_LOG_FLOW = 1, ZT_LOG_PACKET = 2 };
#define ZT_DENIALS_SHIFT 32 /* 0 above it: every denial is logged */

#define ZT_TAG_UNKNOWN 0u
#define ZT_TAG_WORLD 1u
#define ZT_TAG_ANY 0xffffffffu /* `*` in a policy key; a real tag has 24 bits */

/* What is fixed when the programs are loaded.
 *   l3_offset    where the IP header begins: 0 on a WireGuard or tun device, 14 under
 *                BPF_PROG_TEST_RUN, which gives every packet an Ethernet header
 *   mark_mask    the bits of skb->mark that are ours: the judged bit and the tag field
 *   mark_judged  the judged bit
 *   mark_shift   where the tag field begins
 *   rules        numbers of rules that zt_hits has room for, 0 included
 *   tags         tags that zt_through has room for, 0 included
 *   sources      SHA-256 of the sources that the object was compiled from, in hexadecimal */
struct zt_load {
	__u32 l3_offset;
	__u32 mark_mask;
	__u32 mark_judged;
	__u32 mark_shift;
	__u32 rules;
	__u32 tags;
	char sources[64];
};

/* The words of zt_config. Each is written in one 8-byte store and read once per packet. */
enum zt_config_word {
	ZT_CONFIG_MODE = 0,    /* enum zt_mode */
	ZT_CONFIG_LOGGING = 1, /* denials per second and CPU << ZT_DENIALS_SHIFT | enum zt_logging */
	ZT_CONFIG_POLICY = 2,  /* epoch << ZT_EPOCH_SHIFT | flags below */
	ZT_CONFIG_SELF = 3,    /* the tag of this node's own identity */
	ZT_CONFIG_WORDS = 4,
};
#define ZT_POLICY_SLOT 1u          /* which half of zt_policy and zt_pairs is in force */
#define ZT_POLICY_DEFAULT_ALLOW 2u /* what happens when no rule matches */
#define ZT_POLICY_CLIENT 4u        /* no identities, no policy: only replies come in */
#define ZT_POLICY_QUOTAS 8u        /* zt_quotas is not empty */
/* Which pairs with `*` zt_pairs has, so that those it has not are not looked for: (*, a tag), (a tag,
 * *), (*, *). */
#define ZT_POLICY_FROM_ANY 16u
#define ZT_POLICY_TO_ANY 32u
#define ZT_POLICY_ANY_TO_ANY 64u
/* The agent is changing identities, and has yet to raise the epoch: whoever finds this set after a
 * crash does so, or flows that were judged before would never be judged again. Not the programs' matter. */
#define ZT_POLICY_CHANGING 128u
#define ZT_EPOCH_SHIFT 8           /* the epoch has 32 bits, of which 0 means "never judged" */

/* zt_ids, zt_nets: whose address is it? */
enum zt_kind {
	ZT_KIND_NONE = 0,     /* a miss */
	ZT_KIND_SELF = 1,     /* an address of this node */
	ZT_KIND_NODE = 2,     /* of another node, behind its own WireGuard peer */
	ZT_KIND_RESOURCE = 3, /* in a resource */
	ZT_KIND_VIA = 4,      /* a router that may speak ICMP errors for a resource; tag 0 */
};
struct zt_id_key {
	__u32 family; /* 4 or 6 */
	__u32 address[4];
};
struct zt_net_key {
	__u32 prefix_bits; /* counted over all that follows: 32 + the prefix's length */
	__u32 family;
	__u32 address[4];
};
struct zt_identity {
	__u32 tag;
	__u8 kind;
	__u8 pad[3];
};

/* zt_pairs: what does zt_policy have for this pair of tags? */
struct zt_pair_key {
	__u32 source; /* a tag, or ZT_TAG_ANY */
	__u32 destination;
	__u32 slot;
};
/* Of most pairs policy says one thing: that stands here, as it would in zt_policy, where it then is not.
 *   shapes  of which shapes there are keys in zt_policy; bits 0 to 16: with a port prefix of that
 *           length; bit 17: for any protocol. 0: the one entry is here
 *   rule, port, protocol, port_bits, action  the one entry, else 0 */
struct zt_pair {
	__u32 shapes;
	__u32 rule;
	__u16 port;
	__u8 protocol;
	__u8 port_bits;
	__u8 action;
	__u8 pad[3];
};
#define ZT_SHAPE_ANY_PROTOCOL 17

/* zt_policy: may this identity reach that one here? */
struct zt_policy_key {
	__u32 source;
	__u32 destination;
	__u16 port;      /* its lower 16 - port_bits bits are zero */
	__u8 protocol;   /* 0 where port_bits is ZT_ANY_PROTOCOL */
	__u8 port_bits;  /* length of the port prefix, 0 to 16, or ZT_ANY_PROTOCOL */
	__u8 slot;
	__u8 pad[3];
};
#define ZT_ANY_PROTOCOL 0xffu
enum zt_action { ZT_ACTION_ALLOW = 1, ZT_ACTION_DENY = 2 };
struct zt_policy_value {
	__u32 rule; /* index + 1 of the rule in written order; 24 bits */
	__u8 action;
	__u8 pad[3];
};

/* zt_flows: what is known of this conversation? One key for both directions: "low" is the end
 * whose (address, port) compares lower. For an ICMP echo the requester's port is the identifier
 * and the responder's is ZT_ECHO_PORT. */
struct zt_flow_key {
	__u32 low[4];
	__u32 high[4];
	__u16 low_port;
	__u16 high_port;
	__u8 family;
	__u8 protocol;
	__u8 pad[2];
};
#define ZT_ECHO_PORT 8
enum zt_origin {
	ZT_ORIGIN_TUNNEL = 1, /* came out of the tunnel */
	ZT_ORIGIN_LAN = 2,    /* entered the tunnel from another interface */
	ZT_ORIGIN_LOCAL = 3,  /* this node began it */
	ZT_ORIGIN_TRANSIT = 4 /* out of the tunnel and into it again: a packet's, never a flow's */
};
enum zt_flow_flag {
	ZT_FLOW_FROM_HIGH = 1,  /* the high end began it */
	ZT_FLOW_FIN_SOURCE = 2, /* the end that began it sent FIN */
	ZT_FLOW_FIN_OTHER = 4,
	ZT_FLOW_RESET = 8,
};
/* The judgement is one word so that it is written in one store: two CPUs that judge the same flow
 * under different epochs can not leave one's verdict with the other's epoch.
 *   bits 32..63  epoch it was judged in; 0: never
 *   bits  8..31  index + 1 of the rule that decided; 0: none
 *   bits  0..7   ZT_ALLOWED, or the drop reason: then the entry is a tombstone */
#define ZT_JUDGED_RULE_SHIFT 8
#define ZT_JUDGED_EPOCH_SHIFT 32
#define ZT_VOUCHED_TAG_SHIFT 8
struct zt_flow {
	__u64 created_ns;
	__u32 source_tag; /* of the end that began it */
	__u32 destination_tag;
	__u8 origin;
	__u8 flags;
	__u8 pad[22];
	/* What an established packet reads or changes, but for `flags`: the 64 bytes that begin a line
	 * of the cache, an entry of the table being 48 bytes of the kernel's, the key, and this. */
	__u64 last_ns; /* of the last packet that went on */
	__u64 judged;
	__u64 packets[2]; /* [0] in the original direction, [1] the other way */
	__u64 bytes[2];
	/* What was found of both ends, each in one word with the epoch (bits 32..63) it was found in:
	 *   [0]  bits 8..31 tag of the end that began it; bits 0..7, by way and origin: packets of this
	 *        way from there do not come from a stolen address
	 *   [1]  bits 0..23 tag of the other end */
	__u64 vouched[2];
};

/* zt_frags: of which conversation is this later fragment? By all that a destination reassembles by,
 * and by where it came from. */
struct zt_frag_key {
	__u32 source[4];
	__u32 destination[4];
	__u32 id;
	__u8 family;
	__u8 protocol; /* 0 with IPv6, where only the first fragment's counts */
	__u8 origin;
	__u8 pad;
};
enum zt_frag_flag {
	ZT_FRAG_TRACKED = 1,  /* the packet belongs to a flow, or would if there were one */
	ZT_FRAG_POISONED = 2, /* two fragments overlapped: no other passes */
};
#define ZT_FRAG_PIECES 3
/* What is covered so far, in units of 8 bytes, of the packet behind its IP header: all before
 * `covered`, and pieces beyond it from `from` up to, not including, `to` (both 0: none). */
struct zt_frag {
	__u64 created_ns;
	__u16 source_port; /* the first fragment's, as in the key of its flow */
	__u16 destination_port;
	__u16 covered;
	__u16 total; /* 0 while the last fragment was not seen */
	__u16 from[ZT_FRAG_PIECES];
	__u16 to[ZT_FRAG_PIECES];
	__u8 protocol;
	__u8 flags;
	__u8 icmp_type;
	__u8 pad;
};

/* zt_quotas: how much may come from this identity? A token bucket by the source's tag, kept as the
 * one time at which it would be full again, so that one store takes tokens and refills at once. */
struct zt_quota {
	__u64 rate;    /* bytes per second, not 0 */
	__u64 burst;   /* bytes */
	__u64 full_at; /* in 1 / ZT_QUOTA_FRACTION nanoseconds */
};
#define ZT_QUOTA_FRACTION 16

/* zt_hits: what did this rule decide? At (CPU << 1 | slot) * rules + rule, the rule's number being
 * zt_policy's. What a policy that is gone counted is in zt_totals, by the rule's id; zt_names says which
 * id a number has, and at rule 0, in decimal, which generation the slot holds. Programs do not read these
 * two: they live here because they must live as long as the counters. */
struct zt_rule_key {
	__u32 slot;
	__u32 rule; /* index + 1 in written order */
};
struct zt_rule_name {
	char id[64]; /* zeros behind it */
	__u8 action; /* enum zt_action: a rule that changes sides is counted as two */
	__u8 pad[7];
};
struct zt_rule_total {
	__u64 packets;
	__u64 bytes;
	__u32 generation; /* of the last policy whose hits are in it; they may still be in zt_hits too */
	__u8 pad[4];
};

/* zt_stats: one pair of counters per identity, hook and verdict. Most packets go on, and for those
 * of tags below `tags` there is zt_through, at ((CPU << 1 | hook) << 2 | verdict) * tags + tag: nearly all
 * of them are established, and so four tags share a line of the cache. */
struct zt_stats_key {
	__u32 tag;
	__u8 hook;
	__u8 verdict;
	__u8 pad[2];
};
struct zt_stats {
	__u64 packets;
	__u64 bytes;
};

/* zt_log: what became of events, and of counts that found no room. */
enum zt_log_counter {
	ZT_LOG_EMITTED = 0,
	ZT_LOG_RING_FULL = 1,
	ZT_UNCOUNTED = 2,
	ZT_LOG_SUPPRESSED = 3,    /* denials beyond the rate: never emitted */
	ZT_LOG_DENIAL_SECOND = 4, /* no counter: the second in which ... */
	ZT_LOG_DENIALS = 5,       /* ... so many denials were met */
	ZT_LOG_COUNTERS
};

/* zt_events: one record. The kernel writes those of packets; the agent adds those of flows, with the
 * flow's sums so far in one direction. */
enum zt_event_flag {
	ZT_EVENT_FIRST = 1,  /* the first packet of a flow, or a denial */
	ZT_EVENT_UPDATE = 2, /* a flow that lives */
	ZT_EVENT_END = 4,    /* a flow that is over */
};
struct zt_event {
	__u64 at_ns;
	__u64 began_ns; /* of the flow; of a packet: at_ns */
	__u64 packets;
	__u64 bytes; /* on the wire, after segmentation, without link layer */
	__u32 source[4];
	__u32 destination[4];
	__u32 source_tag;
	__u32 destination_tag;
	__u32 rule;  /* index + 1 in the policy of this epoch; 0: none */
	__u32 epoch; /* in which that rule decided; 0: nothing did */
	__u16 source_port;
	__u16 destination_port;
	__u8 family; /* 4, 6; 0: not parsable */
	__u8 protocol;
	__u8 verdict;
	__u8 hook;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 flags;
	__u8 pad[4];
};

#endif
