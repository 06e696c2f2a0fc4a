/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One packet's passage through a program: what is known of it, and what becomes of it. */
#ifndef ZT_PASSAGE_H
#define ZT_PASSAGE_H

#include "zt_abi.h"
#include "zt_load.h"

/* The five things by which a conversation is known. */
struct zt_tuple {
	__u32 source[4];
	__u32 destination[4];
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

/* Where the transport header and what follows it lie, in bytes from the beginning of the skb. */
struct zt_transport {
	__u32 start;
	__u32 length;
	bool is_in_head; /* if it comes right behind an IPv4 header without options */
};

/* packets, bytes  as they are on the wire: a GSO packet counts as its segments
 * fault           0, or the drop reason that its form deserves; then no ports are known
 * is_tracked      belongs to a flow, or would if there were one
 * may_open        may begin a flow
 * is_syn          a TCP SYN without ACK
 * is_error        an ICMP error; quoted: of the packet it complains about
 * is_fragment     of the packet fragment_id: from fragment_from up to, not including, fragment_to in
 *                 units of 8 bytes; is_last: nothing comes behind it */
struct zt_packet {
	__u32 source[4];
	__u32 destination[4];
	__u32 packets;
	__u32 bytes;
	__u16 source_port;
	__u16 destination_port;
	__u8 family;
	__u8 protocol;
	__u8 fault;
	__u8 is_tracked;
	__u8 may_open;
	__u8 is_syn;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 is_error;
	__u8 is_fragment;
	__u8 is_last;
	__u16 fragment_from;
	__u16 fragment_to;
	__u32 fragment_id;
	struct zt_tuple quoted;
	struct zt_transport walk;
};

/* The coarse clock, looked at once in each timer tick: the look itself costs more than to see that the
 * tick is the same.
 *   tick  the one in which ns was read; 0: never */
struct zt_clock {
	__u64 tick;
	__u64 ns;
};

/* It lives in a per-CPU map, not on the stack: the stack is small, and the verifier, which knows
 * every value on the stack, would walk the whole verdict once for each kind of packet.
 *   now        the time of the last timer tick; from when a flow is made, exactly: whoever reads the clock
 *              waits for all that was asked of memory before
 *   policy     zt_config's word; like the others it is read once, before any other map: what user
 *              space changes first (identities, policy) is never older than the epoch it announces
 *   judged     result: verdict, the rule that decided and its epoch, as in zt_flow
 *   source, destination          what the identity maps say of the two addresses
 *   source_tag, destination_tag  what that means for a packet of this origin
 *   from_high  the packet goes from the flow key's high end to its low one
 *   is_first   result: the first packet of a flow, or one that belongs to none
 *   is_exact   now is
 *   is_quoting it complains about a packet of a flow; source and destination are then that packet's
 *   clock      of this CPU: what stays from packet to packet
 *   opening    the flow that is about to be made: not zeroed before */
struct zt_passage {
	__u64 now;
	__u64 policy;
	__u64 judged;
	struct zt_packet packet;
	struct zt_identity source;
	struct zt_identity destination;
	struct zt_flow_key key;
	__u32 self_tag;
	__u32 source_tag;
	__u32 destination_tag;
	__u8 origin;
	__u8 hook;
	__u8 is_enforcing;
	__u8 is_first;
	__u8 from_high;
	__u8 may_open;
	__u8 is_quoting;
	__u8 is_exact;
	__u8 pad[4];
	struct zt_clock clock;
	struct zt_flow opening;
};

/* Make the compiler read memory again, so that the verifier forgets what was written there. */
#define zt_forget() asm volatile("" ::: "memory")

#endif
