/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is fixed when the programs are loaded, in the two dialects: a define for bcc, which compiles
 * at load time; read-only data for libbpf, which patches it.
 *   zt_l3_offset     where the IP header begins: 0 on a WireGuard or tun device, 14 under
 *                    BPF_PROG_TEST_RUN, which gives every packet an Ethernet header
 *   zt_mark_mask     the bits of skb->mark that are ours: the judged bit and the tag field
 *   zt_mark_judged   the judged bit
 *   zt_mark_shift    where the tag field begins */
#ifndef ZT_LOAD_H
#define ZT_LOAD_H

#ifdef ZT_BCC

#define zt_l3_offset ZT_L3_OFFSET
#define zt_mark_mask ZT_MARK_MASK
#define zt_mark_judged ZT_MARK_JUDGED
#define zt_mark_shift ZT_MARK_SHIFT

#else

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 zt_l3_offset = 0;
const volatile __u32 zt_mark_mask = 0xff002000;
const volatile __u32 zt_mark_judged = 0x2000;
const volatile __u32 zt_mark_shift = 24;

/* Sizes of the maps; user space may set others before it loads. */
#define ZT_MAX_IDS 16384
#define ZT_MAX_NETS 16384
#define ZT_MAX_PAIRS 65536
#define ZT_MAX_POLICY 262144
#define ZT_MAX_FLOWS 65536
#define ZT_MAX_STATS 16384
#define ZT_RING_PAGES 256

#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define zt_ntohs(x) __builtin_bswap16(x)
#else
#define zt_ntohs(x) (x)
#endif

#endif
