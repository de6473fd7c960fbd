// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: translation where a socket is told its peer. A process in a served cgroup that
 * connects or sends to a VIP is given a backend's address by the kernel's own socket code, so its
 * packets carry the backend from the start and cost nothing on their way; what the process is shown
 * of its peer is the VIP.
 *
 * Invariants:
 * - A call about no VIP goes on as it came. The answer to connect and sendmsg is translated or an
 *   error, never a packet for a VIP that is served.
 * - sock_peers has what a connected socket is connected to, or the first peer that an unconnected
 *   one has spoken to; its further peers are in sock_reverse, twice: by VIP and by backend.
 * - The kernel runs no program when a connected socket sends: those whose backend went are ended by
 *   the daemon, which finds them in sock_peers (sockpeers.bpf.c).
 * - The kernel runs these programs with the socket locked, so a socket's own entry has one writer.
 * - An unconnected socket's peer keeps its backend as long as the backend is in the set that a new
 *   one would be picked from. A connected one keeps it until it connects again.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "sock.h"

char LICENSE[] SEC("license") = "Apache-2.0";

/* Beyond a socket's own entry: sock_reverse, by the socket's cookie. */
static __always_inline struct sock_peer *find_more(struct bpf_sock_addr *ctx, __u8 side,
						   const __u8 *addr, __be16 port)
{
	struct sock_key key = { .cookie = bpf_get_socket_cookie(ctx), .port = port, .side = side };

	copy_addr(key.addr, addr);
	return bpf_map_lookup_elem(&sock_reverse, &key);
}

static __always_inline int keep_more(struct bpf_sock_addr *ctx, __u8 side,
				     const struct sock_peer *peer)
{
	struct sock_key key = { .cookie = bpf_get_socket_cookie(ctx), .side = side };

	copy_addr(key.addr, side == SOCK_BY_VIP ? peer->vip : peer->backend);
	key.port = side == SOCK_BY_VIP ? peer->vip_port : peer->backend_port;
	return bpf_map_update_elem(&sock_reverse, &key, peer, BPF_ANY);
}

/* connect() ------------------------------------------------------------------------------------ */

/* Whether call->peer is what to connect to; *verdict is the program's answer. */
static __always_inline bool connect(struct bpf_sock_addr *ctx, struct call *call, int *verdict)
{
	struct vip *vip = find_vip(ctx, call);
	struct sock_peer *own;
	int reason;

	*verdict = PROCEED;
	if (!vip) {
		/* Whatever it was before: from now on it is nothing of ours. */
		bpf_sk_storage_delete(&sock_peers, ctx->sk);
		return false;
	}
	reason = choose(ctx, vip, call);
	if (reason) {
		*verdict = refuse(vip, reason);
		return false;
	}
	call->peer.flags = SOCK_CONNECTED;
	/* Without the memory for it, the socket works and getpeername() shows the backend. */
	own = bpf_sk_storage_get(&sock_peers, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (own)
		*own = call->peer;
	count(SOCK_CONNECT);
	return true;
}

/* Datagrams of unconnected sockets --------------------------------------------------------------*/

static __always_inline bool is_vip_of(const struct sock_peer *peer, const struct call *call)
{
	return same_addr(peer->vip, call->asked.addr) && peer->vip_port == call->asked.port;
}

static __always_inline bool is_backend_of(const struct sock_peer *peer, const struct call *call)
{
	return same_addr(peer->backend, call->asked.addr) && peer->backend_port == call->asked.port;
}

/* Whether a peer's backend is one that a new peer might get. */
static __noinline bool serves(const struct vip *vip, const struct sock_peer *peer)
{
	__u32 id = peer->backend_id;
	struct backend *backend;

	if (peer->service_id != vip->service_id)
		return false;
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!backend || !same_addr(backend->addr, peer->backend) ||
	    backend->port != peer->backend_port || backend->proto != peer->proto)
		return false;
	return is_member(set_of(vip), id);
}

/* Two VIPs of a socket may have one backend: what it sends comes from the one spoken to last. */
static __noinline int spoken_to(struct bpf_sock_addr *ctx, const struct sock_peer *peer)
{
	struct sock_peer *held = find_more(ctx, SOCK_BY_BACKEND, peer->backend, peer->backend_port);

	if (held && same_addr(held->vip, peer->vip) && held->vip_port == peer->vip_port)
		return 0;
	return keep_more(ctx, SOCK_BY_BACKEND, peer);
}

/* Keep a new peer; 0, or a negative error number. */
static __noinline int keep(struct bpf_sock_addr *ctx, struct call *call)
{
	struct sock_peer *own;

	own = bpf_sk_storage_get(&sock_peers, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!own)
		return -ENOMEM;
	if (!own->proto || (is_vip_of(own, call) && !(own->flags & SOCK_CONNECTED))) {
		call->peer.flags = own->flags;
		*own = call->peer;
	} else {
		own->flags |= SOCK_MORE;
		if (keep_more(ctx, SOCK_BY_VIP, &call->peer))
			return -ENOMEM;
	}
	return own->flags & SOCK_MORE ? spoken_to(ctx, &call->peer) : 0;
}

/* The peer that the socket has for this VIP already, in call->peer. */
static __noinline bool recall(struct bpf_sock_addr *ctx, const struct vip *vip, struct call *call)
{
	struct sock_peer *own = bpf_sk_storage_get(&sock_peers, ctx->sk, 0, 0);
	struct sock_peer *found = NULL;

	if (!own)
		return false;
	if (is_vip_of(own, call) && serves(vip, own)) {
		found = own;
	} else if (own->flags & SOCK_MORE) {
		found = find_more(ctx, SOCK_BY_VIP, call->asked.addr, call->asked.port);
		if (found && !serves(vip, found))
			found = NULL;
	}
	if (!found)
		return false;
	call->peer = *found;
	if (own->flags & SOCK_MORE)
		spoken_to(ctx, &call->peer);
	return true;
}

/* As connect(), for a datagram that has its destination with it. */
static __always_inline bool send(struct bpf_sock_addr *ctx, struct call *call, int *verdict)
{
	struct vip *vip = find_vip(ctx, call);
	int failed;

	*verdict = PROCEED;
	if (!vip)
		return false;
	if (recall(ctx, vip, call)) {
		count(SOCK_FORWARD);
	} else {
		failed = choose(ctx, vip, call);
		if (failed) {
			*verdict = refuse(vip, failed);
			return false;
		}
		failed = keep(ctx, call);
		if (failed) {
			/* Its answer would come from a stranger: better none is asked for. */
			bpf_set_retval(-ENOMEM);
			*verdict = REFUSE;
			return false;
		}
		count(SOCK_NEW);
	}
	count_datagram(vip->service_id, TRAFFIC_FORWARD);
	return true;
}

/* Whether call->asked is a backend that was spoken to by its VIP, which is then in call->peer. */
static __always_inline bool receive(struct bpf_sock_addr *ctx, struct call *call)
{
	struct sock_peer *own = bpf_sk_storage_get(&sock_peers, ctx->sk, 0, 0);
	struct sock_peer *found = NULL;

	if (!own)
		return false;
	if (own->flags & SOCK_MORE)
		found = find_more(ctx, SOCK_BY_BACKEND, call->asked.addr, call->asked.port);
	if (!found && is_backend_of(own, call))
		found = own;
	if (!found)
		return false;
	call->peer = *found;
	count(SOCK_REPLY);
	count_datagram(found->service_id, TRAFFIC_REPLY);
	return true;
}

static __always_inline bool name_peer(struct bpf_sock_addr *ctx, struct call *call)
{
	struct sock_peer *own = bpf_sk_storage_get(&sock_peers, ctx->sk, 0, 0);

	if (!own || !(own->flags & SOCK_CONNECTED) || !is_backend_of(own, call))
		return false;
	call->peer = *own;
	return true;
}

/* The hooks ------------------------------------------------------------------------------------ */

static __always_inline bool ours(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP;
}

static __always_inline void read4(struct bpf_sock_addr *ctx, struct call *call)
{
	*call = (struct call){};
	((word *)call->asked.addr)[2] = bpf_htonl(0xffff);
	((word *)call->asked.addr)[3] = ctx->user_ip4;
	call->asked.port = ctx->user_port;
	call->asked.proto = ctx->protocol;
}

static __always_inline void read6(struct bpf_sock_addr *ctx, struct call *call)
{
	*call = (struct call){};
	((word *)call->asked.addr)[0] = ctx->user_ip6[0];
	((word *)call->asked.addr)[1] = ctx->user_ip6[1];
	((word *)call->asked.addr)[2] = ctx->user_ip6[2];
	((word *)call->asked.addr)[3] = ctx->user_ip6[3];
	call->asked.port = ctx->user_port;
	call->asked.proto = ctx->protocol;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const __u8 *addr, __be16 port)
{
	ctx->user_ip4 = ((const word *)addr)[3];
	ctx->user_port = port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const __u8 *addr, __be16 port)
{
	ctx->user_ip6[0] = ((const word *)addr)[0];
	ctx->user_ip6[1] = ((const word *)addr)[1];
	ctx->user_ip6[2] = ((const word *)addr)[2];
	ctx->user_ip6[3] = ((const word *)addr)[3];
	ctx->user_port = port;
}

#define HOOKS(family)									\
SEC("cgroup/connect" #family)								\
int millrace_con##family(struct bpf_sock_addr *ctx)					\
{											\
	struct call call;								\
	int verdict;									\
											\
	if (!ours(ctx))									\
		return PROCEED;								\
	read##family(ctx, &call);							\
	if (connect(ctx, &call, &verdict))						\
		write##family(ctx, call.peer.backend, call.peer.backend_port);		\
	return verdict;									\
}											\
											\
SEC("cgroup/sendmsg" #family)								\
int millrace_snd##family(struct bpf_sock_addr *ctx)					\
{											\
	struct call call;								\
	int verdict;									\
											\
	if (!ours(ctx))									\
		return PROCEED;								\
	read##family(ctx, &call);							\
	if (send(ctx, &call, &verdict))							\
		write##family(ctx, call.peer.backend, call.peer.backend_port);		\
	return verdict;									\
}											\
											\
SEC("cgroup/recvmsg" #family)								\
int millrace_rcv##family(struct bpf_sock_addr *ctx)					\
{											\
	struct call call;								\
											\
	if (!ours(ctx))									\
		return PROCEED;								\
	read##family(ctx, &call);							\
	if (receive(ctx, &call))							\
		write##family(ctx, call.peer.vip, call.peer.vip_port);			\
	return PROCEED;									\
}											\
											\
SEC("cgroup/getpeername" #family)							\
int millrace_gpn##family(struct bpf_sock_addr *ctx)					\
{											\
	struct call call;								\
											\
	if (!ours(ctx))									\
		return PROCEED;								\
	read##family(ctx, &call);							\
	if (name_peer(ctx, &call))							\
		write##family(ctx, call.peer.vip, call.peer.vip_port);			\
	return PROCEED;									\
}

HOOKS(4)
HOOKS(6)
