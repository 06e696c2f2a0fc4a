/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose address is it? Exact first: most addresses are nodes', and a hash costs half of a trie. */
#ifndef ZT_IDENTITY_H
#define ZT_IDENTITY_H

#include "zt_parse.h"

static __always_inline struct zt_identity zt_identify(__u8 family, const __u32 *address)
{
	struct zt_identity nobody = {}, *found;
	struct zt_net_key net = { .prefix_bits = 32 + 128, .family = family };

	if (!family)
		return nobody;
	__builtin_memcpy(net.address, address, sizeof(net.address));
	/* The rest of the trie's key is the hash's key. */
	found = zt_ids_lookup((struct zt_id_key *)&net.family);
	if (!found)
		found = zt_nets_lookup(&net);
	return found ? *found : nobody;
}

#endif
