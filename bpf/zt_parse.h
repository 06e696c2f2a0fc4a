/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From bytes to what the verdict needs. Headers are copied out: the first ones straight from where
 * they lie in a row, which saves three calls for most packets, all others with bpf_skb_load_bytes. So
 * there is nothing to pull (a partial pull of a UDP GSO fraglist packet has crashed kernels in
 * skb_segment), and nothing of the packet is ever changed. */
#ifndef ZT_PARSE_H
#define ZT_PARSE_H

#include "zt_maps.h"

#define ZT_PROTO_HOPOPTS 0
#define ZT_PROTO_ICMP 1
#define ZT_PROTO_TCP 6
#define ZT_PROTO_UDP 17
#define ZT_PROTO_ROUTING 43
#define ZT_PROTO_FRAGMENT 44
#define ZT_PROTO_AH 51
#define ZT_PROTO_ICMPV6 58
#define ZT_PROTO_DSTOPTS 60
#define ZT_PROTO_MOBILITY 135
#define ZT_PROTO_HIP 139
#define ZT_PROTO_SHIM6 140

#define ZT_TCP_FIN 0x01
#define ZT_TCP_SYN 0x02
#define ZT_TCP_RST 0x04
#define ZT_TCP_ACK 0x10

#define ZT_IPV4_MORE 0x2000
#define ZT_IPV4_OFFSET 0x1fff
#define ZT_IPV6_MORE 1

#define ZT_MAX_EXTENSIONS 6 /* IPv6 extension headers walked before giving up */

struct zt_ipv4 {
	__u8 version_ihl, tos;
	__u16 total_length, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 source, destination;
};

struct zt_ipv6 {
	__u8 version_class, class_flow[3];
	__u16 payload_length;
	__u8 next, hop_limit;
	__u32 source[4], destination[4];
};

struct zt_ipv6_extension {
	__u8 next, length, type, segments_left; /* length in 8 bytes, not counting the first 8 */
};

struct zt_ipv6_fragment {
	__u8 next, reserved;
	__u16 offset; /* and, in its lowest bit, whether more follow */
	__u32 id;
};

struct zt_tcp {
	__u16 source, destination;
	__u32 sequence, acknowledgement;
	__u8 offset, flags;
	__u16 window, checksum, urgent;
};

struct zt_udp {
	__u16 source, destination, length, checksum;
};

struct zt_icmp {
	__u8 type, code;
	__u16 checksum, id, sequence;
};

/* The first bytes of a packet. */
struct zt_head {
	union {
		struct {
			struct zt_ipv4 ip;
			struct zt_tcp tcp; /* or what else is there; only behind an IP header without options */
		};
		struct zt_ipv6 ip6;
	};
};

/* Fills HEAD, and says how much of it: all, an IPv4 header, or nothing. */
static __always_inline __u32 zt_load_head(struct __sk_buff *skb, struct zt_head *head)
{
	void *start = (void *)(long)skb->data + zt_l3_offset;

	if (start + sizeof(*head) <= (void *)(long)skb->data_end) {
		__builtin_memcpy(head, start, sizeof(*head));
		return sizeof(*head);
	}
	if (!bpf_skb_load_bytes(skb, zt_l3_offset, head, sizeof(*head)))
		return sizeof(*head);
	return bpf_skb_load_bytes(skb, zt_l3_offset, head, sizeof(head->ip)) ? 0 : sizeof(head->ip);
}

/* LENGTH bytes of a packet in fragments, at OFFSET in units of 8 bytes. What no sender makes, and a
 * destination must not get: nothing, an end between two units, more than a packet can be. */
static __always_inline int zt_parse_fragment(struct zt_packet *packet, __u32 id, __u16 offset,
					     bool is_last, __u32 length)
{
	if (!length || (!is_last && length & 7) || offset * 8 + length > 0xffff)
		return ZT_MALFORMED;
	packet->is_fragment = 1;
	packet->is_last = is_last;
	packet->fragment_id = id;
	packet->fragment_from = offset;
	packet->fragment_to = offset + (length + 7) / 8;
	return 0;
}

static __always_inline int zt_parse_ipv4(struct __sk_buff *skb, const struct zt_ipv4 *ip,
					 struct zt_packet *packet, struct zt_transport *transport)
{
	__u32 available = skb->len - zt_l3_offset, header, total;
	__u16 fragment = zt_ntohs(ip->fragment);

	header = (ip->version_ihl & 0xf) * 4;
	total = zt_ntohs(ip->total_length);
	if (!total && skb->gso_size) /* BIG TCP: longer than the field can say */
		total = available;
	if (header < sizeof(*ip) || total < header || total > available)
		return ZT_MALFORMED;
	packet->family = 4;
	packet->source[0] = ip->source;
	packet->destination[0] = ip->destination;
	packet->protocol = ip->protocol;
	transport->start = zt_l3_offset + header;
	transport->length = total - header;
	if (fragment & (ZT_IPV4_MORE | ZT_IPV4_OFFSET))
		return zt_parse_fragment(packet, ip->id, fragment & ZT_IPV4_OFFSET,
					 !(fragment & ZT_IPV4_MORE), transport->length);
	return 0;
}

static __always_inline int zt_walk_extensions(struct __sk_buff *skb, struct zt_packet *packet)
{
	struct zt_transport *walk = &packet->walk;
	struct zt_ipv6_extension extension;
	struct zt_ipv6_fragment fragment;
	__u16 offset;
	__u32 size;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i <= ZT_MAX_EXTENSIONS; i++) {
		/* Most packets have none. Told so, the compiler has the loop begin where it is entered;
		 * else its end may fall through into its head, which the verifier of 6.1 refuses as
		 * endless (check_cfg() lets only jumps go back). tests/contract/test_object.py */
		switch (__builtin_expect(packet->protocol, ZT_PROTO_TCP)) {
		case ZT_PROTO_HOPOPTS:
		case ZT_PROTO_ROUTING:
		case ZT_PROTO_DSTOPTS:
			if (i == ZT_MAX_EXTENSIONS)
				return ZT_UNSUPPORTED_PROTOCOL;
			/* Its length counts from 8: what is behind the packet is no part of it. */
			if (walk->length < 8 ||
			    bpf_skb_load_bytes(skb, walk->start, &extension,
					       sizeof(extension)))
				return ZT_MALFORMED;
			/* The address policy sees must be where the packet ends. */
			if (packet->protocol == ZT_PROTO_ROUTING && extension.segments_left)
				return ZT_UNSUPPORTED_PROTOCOL;
			size = (extension.length + 1) * 8;
			packet->protocol = extension.next;
			break;
		case ZT_PROTO_FRAGMENT:
			if (i == ZT_MAX_EXTENSIONS)
				return ZT_UNSUPPORTED_PROTOCOL;
			/* RFC 8200, 4.1: at most once. */
			if (packet->is_fragment || walk->length < sizeof(fragment) ||
			    bpf_skb_load_bytes(skb, walk->start, &fragment, sizeof(fragment)))
				return ZT_MALFORMED;
			size = sizeof(fragment);
			packet->protocol = fragment.next;
			offset = zt_ntohs(fragment.offset);
			/* RFC 6946: alone it is no fragment. */
			if (offset & (0xfff8 | ZT_IPV6_MORE) &&
			    zt_parse_fragment(packet, fragment.id, offset >> 3,
					      !(offset & ZT_IPV6_MORE), walk->length - size))
				return ZT_MALFORMED;
			if (offset >> 3)
				return 0;
			break;
		case ZT_PROTO_AH:
		case ZT_PROTO_MOBILITY:
		case ZT_PROTO_HIP:
		case ZT_PROTO_SHIM6:
			return ZT_UNSUPPORTED_PROTOCOL;
		default:
			return 0;
		}
		if (size > walk->length)
			return ZT_MALFORMED;
		walk->start += size;
		walk->length -= size;
		zt_forget();
	}
	return ZT_UNSUPPORTED_PROTOCOL;
}

static __always_inline int zt_parse_ipv6(struct __sk_buff *skb, const struct zt_ipv6 *ip,
					 struct zt_packet *packet, struct zt_transport *transport)
{
	__u32 available = skb->len - zt_l3_offset, payload;
	int fault;

	payload = zt_ntohs(ip->payload_length);
	if (!payload && skb->gso_size)
		payload = available - sizeof(*ip);
	if (payload > available - sizeof(*ip))
		return ZT_MALFORMED;
	packet->family = 6;
	__builtin_memcpy(packet->source, ip->source, sizeof(ip->source));
	__builtin_memcpy(packet->destination, ip->destination, sizeof(ip->destination));
	packet->protocol = ip->next;
	packet->walk.start = zt_l3_offset + sizeof(*ip);
	packet->walk.length = payload;
	fault = zt_walk_extensions(skb, packet);
	zt_forget();
	transport->start = packet->walk.start;
	transport->length = packet->walk.length;
	return fault;
}

static __always_inline __u8 zt_echo_request(__u8 family)
{
	return family == 4 ? 8 : 128;
}

static __always_inline __u8 zt_echo_reply(__u8 family)
{
	return family == 4 ? 0 : 129;
}

static __always_inline bool zt_is_icmp(__u8 family, __u8 protocol)
{
	return protocol == (family == 4 ? ZT_PROTO_ICMP : ZT_PROTO_ICMPV6);
}

/* Of the types that quote a packet: unreachable, source quench, time exceeded and bad parameter; with
 * IPv6 unreachable, too big, time exceeded and bad parameter. A redirect (IPv4: 5) quotes one too,
 * but it is advice about routes, which nobody takes through a tunnel. */
static __always_inline bool zt_is_error(__u8 family, __u8 type)
{
	if (family == 4)
		return type == 3 || type == 4 || type == 11 || type == 12;
	return type >= 1 && type <= 4;
}

/* The packet that an ICMP error at AT, of LENGTH bytes, quotes. 8 bytes behind its IP header are
 * enough. It is no error that could belong to a flow where less is there, or a later fragment. */
static __always_inline bool zt_parse_quoted(struct __sk_buff *skb, __u32 at, __u32 length,
					    struct zt_packet *packet)
{
	struct zt_tuple *quoted = &packet->quoted;
	__u32 header;
	struct zt_icmp start;

	if (packet->family == 4) {
		struct zt_ipv4 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return false;
		header = (ip.version_ihl & 0xf) * 4;
		if (ip.version_ihl >> 4 != 4 || header < sizeof(ip) ||
		    zt_ntohs(ip.fragment) & ZT_IPV4_OFFSET)
			return false;
		quoted->source[0] = ip.source;
		quoted->destination[0] = ip.destination;
		quoted->protocol = ip.protocol;
	} else {
		struct zt_ipv6_fragment fragment;
		struct zt_ipv6 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return false;
		header = sizeof(ip);
		if (ip.version_class >> 4 != 6)
			return false;
		__builtin_memcpy(quoted->source, ip.source, sizeof(ip.source));
		__builtin_memcpy(quoted->destination, ip.destination, sizeof(ip.destination));
		quoted->protocol = ip.next;
		/* The one extension that packets of ordinary conversations have. */
		if (quoted->protocol == ZT_PROTO_FRAGMENT) {
			if (bpf_skb_load_bytes(skb, at + header, &fragment, sizeof(fragment)) ||
			    zt_ntohs(fragment.offset) & 0xfff8)
				return false;
			quoted->protocol = fragment.next;
			header += sizeof(fragment);
		}
	}
	if (header + sizeof(start) > length ||
	    bpf_skb_load_bytes(skb, at + header, &start, sizeof(start)))
		return false;
	if (quoted->protocol == ZT_PROTO_TCP || quoted->protocol == ZT_PROTO_UDP) {
		/* The first four bytes are the two ports. */
		quoted->source_port = (start.type << 8) | start.code;
		quoted->destination_port = zt_ntohs(start.checksum);
	} else if (zt_is_icmp(packet->family, quoted->protocol)) {
		if (start.type == zt_echo_request(packet->family)) {
			quoted->source_port = zt_ntohs(start.id);
			quoted->destination_port = ZT_ECHO_PORT;
		} else if (start.type == zt_echo_reply(packet->family)) {
			quoted->source_port = ZT_ECHO_PORT;
			quoted->destination_port = zt_ntohs(start.id);
		} else {
			return false;
		}
	}
	return true;
}

/* The same for the packet of this CPU's passage. */
ZT_APART int zt_parse_quoted_apart(struct __sk_buff *skb, __u32 at, __u32 length)
{
	struct zt_passage *passage = zt_scratch_lookup();

	return passage ? zt_parse_quoted(skb, at, length, &passage->packet) : 0;
}

/* SIZE bytes of the transport header, from HEAD where they are there. */
static __always_inline bool zt_load_transport(struct __sk_buff *skb, const struct zt_head *head,
					      const struct zt_transport *transport, void *out,
					      __u32 size)
{
	if (transport->is_in_head && transport->start == zt_l3_offset + sizeof(head->ip)) {
		__builtin_memcpy(out, &head->tcp, size);
		return true;
	}
	return !bpf_skb_load_bytes(skb, transport->start, out, size);
}

/* Ports and flags, and the SIZE of the transport header: 0 of a protocol that is not read. Returns 0
 * or ZT_MALFORMED. */
static __always_inline int zt_parse_transport(struct __sk_buff *skb, const struct zt_head *head,
					      struct zt_packet *packet,
					      struct zt_transport *transport, __u32 *size)
{
	*size = 0;
	packet->is_tracked = 1;
	packet->may_open = 1;
	if (packet->protocol == ZT_PROTO_TCP) {
		struct zt_tcp tcp;

		if (transport->length < sizeof(tcp) ||
		    !zt_load_transport(skb, head, transport, &tcp, sizeof(tcp)))
			return ZT_MALFORMED;
		*size = (tcp.offset >> 4) * 4;
		if (*size < sizeof(tcp) || *size > transport->length)
			return ZT_MALFORMED;
		packet->source_port = zt_ntohs(tcp.source);
		packet->destination_port = zt_ntohs(tcp.destination);
		packet->tcp_flags = tcp.flags;
		packet->is_syn = (tcp.flags & (ZT_TCP_SYN | ZT_TCP_ACK)) == ZT_TCP_SYN;
	} else if (packet->protocol == ZT_PROTO_UDP) {
		struct zt_udp udp;
		__u16 length;

		if (transport->length < sizeof(udp) ||
		    !zt_load_transport(skb, head, transport, &udp, sizeof(udp)))
			return ZT_MALFORMED;
		length = zt_ntohs(udp.length);
		/* Of a first fragment it is the whole packet's, of a super-packet nobody's. IPv6 has 0 for
		 * what is longer than it can say (RFC 2675). */
		if (!packet->is_fragment && !skb->gso_size &&
		    (length > transport->length ||
		     (length < sizeof(udp) && (length || packet->family == 4))))
			return ZT_MALFORMED;
		*size = sizeof(udp);
		packet->source_port = zt_ntohs(udp.source);
		packet->destination_port = zt_ntohs(udp.destination);
	} else if (zt_is_icmp(packet->family, packet->protocol)) {
		__u8 request = zt_echo_request(packet->family);
		__u8 reply = zt_echo_reply(packet->family);
		struct zt_icmp icmp;

		if (transport->length < sizeof(icmp) ||
		    !zt_load_transport(skb, head, transport, &icmp, sizeof(icmp)))
			return ZT_MALFORMED;
		*size = sizeof(icmp);
		packet->icmp_type = icmp.type;
		packet->icmp_code = icmp.code;
		/* Only an echo is a conversation, and only its request begins one: a request that
		 * comes back the other way with the same identifier has another key. */
		packet->may_open = icmp.type == request;
		packet->is_tracked = icmp.type == request || icmp.type == reply;
		if (icmp.type == request) {
			packet->source_port = zt_ntohs(icmp.id);
			packet->destination_port = ZT_ECHO_PORT;
		} else if (icmp.type == reply) {
			packet->source_port = ZT_ECHO_PORT;
			packet->destination_port = zt_ntohs(icmp.id);
		} else if (zt_is_error(packet->family, icmp.type)) {
			packet->is_error = zt_parse_quoted_apart(
				skb, transport->start + sizeof(icmp),
				transport->length - sizeof(icmp));
		}
	}
	return 0;
}

/* How many packets it is on the wire, PAYLOAD being all bytes behind its headers. A GSO packet that
 * came through a tun device has its size of segments, but not their number yet. */
static __always_inline __u32 zt_segments(struct __sk_buff *skb, __u32 payload)
{
	__u32 segments = skb->gso_segs, size = skb->gso_size;

	if (!segments && size)
		segments = (payload + size - 1) / size;
	return segments ? segments : 1;
}

/* Fills PACKET, whose bytes are all zero before. */
static __always_inline void zt_parse(struct __sk_buff *skb, struct zt_packet *packet)
{
	__u32 total = skb->len - zt_l3_offset, headers = 0, size = 0;
	struct zt_transport transport = {};
	struct zt_head head = {};
	__u32 loaded = zt_load_head(skb, &head);
	__u8 version = head.ip.version_ihl >> 4;

	transport.is_in_head = loaded == sizeof(head);
	if (version == 4 && loaded)
		packet->fault = zt_parse_ipv4(skb, &head.ip, packet, &transport);
	else if (version == 6 && loaded == sizeof(head))
		packet->fault = zt_parse_ipv6(skb, &head.ip6, packet, &transport);
	else
		packet->fault = ZT_MALFORMED;
	/* A later fragment has no transport header: zt_frag.h knows its first's. */
	if (!packet->fault && !packet->fragment_from)
		packet->fault = zt_parse_transport(skb, &head, packet, &transport, &size);
	if (transport.start)
		headers = transport.start - zt_l3_offset + size;
	packet->packets = zt_segments(skb, total - headers);
	packet->bytes = total + (packet->packets - 1) * headers;
}

#endif
