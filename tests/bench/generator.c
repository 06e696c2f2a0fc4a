// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets of many flows for programs under measurement. BPF_PROG_TEST_RUN and live frames repeat one
 * packet; these programs give it other addresses and ports each time, and hand it on. What they cost
 * themselves is measured with a target that does nothing. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERNET 14
#define PASS (-1) /* TC_ACT_UNSPEC */
#define MAX_FLOWS 16384
#define PORTS_OF_LAP 16 /* that flows which differ in nothing else may have */

enum mode {
	IN_ORDER = 0, /* each flow once, then again */
	RANDOM = 1,
	FRESH = 2, /* in order, and in each lap every flow from another source port */
};

/* As in an IPv4 header without options and the ports behind it: the twelve bytes that change. */
struct tuple {
	__u32 source, destination;
	__be16 source_port, destination_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct tuple);
	__uint(max_entries, MAX_FLOWS);
} tuples SEC(".maps");

struct state {
	__u32 mode;
	__u32 count; /* of tuples in use */
	__u32 next;
	__u32 lap;
	__u64 random;
	__u32 interface; /* for live frames: where to */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct state);
	__uint(max_entries, 1);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} target SEC(".maps");

static __always_inline struct state *next_tuple(struct tuple *tuple)
{
	__u32 key = 0;
	struct state *now = bpf_map_lookup_elem(&state, &key);
	struct tuple *found;

	if (!now)
		return 0;
	if (now->mode == RANDOM) {
		now->random = now->random * 6364136223846793005ull + 1442695040888963407ull;
		key = (now->random >> 32) * now->count >> 32;
	} else {
		key = now->next;
		if (++now->next >= now->count) {
			now->next = 0;
			now->lap++;
		}
	}
	found = bpf_map_lookup_elem(&tuples, &key);
	if (!found)
		return 0;
	*tuple = *found;
	if (now->mode == FRESH)
		tuple->source_port =
			bpf_htons(bpf_ntohs(found->source_port) + now->lap * PORTS_OF_LAP);
	return now;
}

SEC("tc")
int generate(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	struct tuple *at = (void *)(long)skb->data + ETHERNET + 12;
	struct tuple tuple;

	if ((void *)(at + 1) > end || !next_tuple(&tuple))
		return PASS;
	*at = tuple;
	bpf_tail_call(skb, &target, 0);
	return PASS;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	(void)skb;
	return PASS;
}

SEC("xdp")
int generate_live(struct xdp_md *xdp)
{
	void *end = (void *)(long)xdp->data_end;
	void *ip = (void *)(long)xdp->data + ETHERNET;
	struct tuple tuple;
	struct state *now;
	__u16 *half = ip;
	__u32 sum = 0;
	int i;

	if (ip + 12 + sizeof(tuple) > end)
		return XDP_ABORTED;
	now = next_tuple(&tuple);
	if (!now)
		return XDP_ABORTED;
	*(struct tuple *)(ip + 12) = tuple;
	half[5] = 0; /* the header's checksum */
#pragma clang loop unroll(full)
	for (i = 0; i < 10; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	half[5] = ~sum;
	return bpf_redirect(now->interface, 0);
}

char bench_license[] SEC("license") = "Dual BSD/GPL";
