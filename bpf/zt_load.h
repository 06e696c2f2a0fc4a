/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is fixed when the programs are loaded (struct zt_load), in the two dialects: a define for bcc,
 * which compiles at load time; read-only data in a section of its own for libbpf, filled in before
 * the kernel sees it. */
#ifndef ZT_LOAD_H
#define ZT_LOAD_H

#include "zt_abi.h"

#ifdef ZT_BCC

#define zt_l3_offset ZT_L3_OFFSET
#define zt_mark_mask ZT_MARK_MASK
#define zt_mark_judged ZT_MARK_JUDGED
#define zt_mark_shift ZT_MARK_SHIFT
#define zt_room_rules ZT_ROOM_RULES
#define zt_room_tags ZT_ROOM_TAGS

#else

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Given by agent/datapath/build.py; an object without it is refused by the agent. */
#ifndef ZT_SOURCES
#define ZT_SOURCES ""
#endif

/* Volatile: the compiler must not use the values that stand here, only the verifier may. */
const volatile struct zt_load zt_load SEC(".rodata.zt_load") = {
	.l3_offset = 0,
	.mark_mask = 0xff002000,
	.mark_judged = 0x2000,
	.mark_shift = 24,
	.rules = 65537,
	.tags = 16384,
	.sources = ZT_SOURCES,
};

#define zt_l3_offset zt_load.l3_offset
#define zt_mark_mask zt_load.mark_mask
#define zt_mark_judged zt_load.mark_judged
#define zt_mark_shift zt_load.mark_shift
#define zt_room_rules zt_load.rules
#define zt_room_tags zt_load.tags

/* Sizes of the maps; the agent sets its own before it loads. */
#define ZT_MAX_IDS 16384
#define ZT_MAX_NETS 16384
#define ZT_MAX_PAIRS 65536
#define ZT_MAX_POLICY 262144
#define ZT_MAX_FLOWS 65536
#define ZT_MAX_STATS 16384
#define ZT_MAX_FRAGS 4096
#define ZT_MAX_QUOTAS 4096
#define ZT_MAX_HITS 131074
#define ZT_MAX_THROUGH 131072
#define ZT_MAX_NAMES 131074
#define ZT_MAX_TOTALS 131072
#define ZT_MAX_EVENTS 1

#endif

/* A function that the kernel verifies once and by itself, whatever is known where it is called; else it
 * walks through it again for each thing that may be known there. A call costs some 5 ns: for what most
 * packets do not need. bcc knows no such functions. */
#ifdef ZT_BCC
#define ZT_APART static __always_inline
#else
#define ZT_APART __attribute__((noinline))
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define zt_ntohs(x) __builtin_bswap16(x)
#else
#define zt_ntohs(x) (x)
#endif

#endif
