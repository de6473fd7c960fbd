// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the answer to "which UDP sockets are connected to what?", for the daemon. The
 * kernel shows this program every entry of sock_peers, of all network namespaces, while the daemon
 * reads from the iterator; what is found is left in a map that is the daemon's own.
 *
 * No helper used is for GPL programs only (bpf_seq_write is), so the license is the project's.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

char LICENSE[] SEC("license") = "Apache-2.0";

/* By the socket's cookie; emptied before each walk. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONNECTED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct sock_peer);
} connected SEC(".maps");

/* The kernel's struct bpf_iter__bpf_sk_storage_map; sk and value are NULL at the end. */
struct entry {
	void *meta;
	void *map;
	void *sk;
	struct sock_peer *value;
};

SEC("iter/bpf_sk_storage_map")
int millrace_peers(struct entry *entry)
{
	struct sock_peer *held = entry->value, peer;
	void *sk = entry->sk;
	__u64 cookie;

	if (!sk || !held)
		return 0;
	peer = *held;
	if (peer.proto != IPPROTO_UDP || !(peer.flags & SOCK_CONNECTED))
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	bpf_map_update_elem(&connected, &cookie, &peer, BPF_ANY);
	return 0;
}
