// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the two ends of the path between a node's containers and the one port that they
 * share in OVS. millrace_pod_tx runs at tc's ingress of a pod's veth, at the host's end, on what the
 * pod sends: it pushes the pod's VLAN tag and sends the frame out of the trunk. millrace_trunk runs
 * at tc's ingress of the trunk's kernel end, on what OVS sends: it takes the tag off and hands the
 * frame to the pod's own end of its veth.
 *
 * Invariants:
 * - A pod's frame reaches OVS with the pod's tag and no other: one that comes with a tag of its own
 *   is dropped, so no pod speaks in another's name.
 * - The frame's checksums are the trunk's to fill in, which offers no offload: the kernel finishes
 *   (and cuts up) what a pod left to hardware before it crosses.
 * - User space writes `trunk_ports` and `trunk_pods` alone, the programs `trunk_counters` alone. In
 *   `trunk_traffic` the programs count, and user space begins anew when a tag gets another pod.
 * - The kernel has moved an outer tag out of the frame before tc sees it (skb_vlan_untag), on veth as
 *   on any other device; the programs look at what it found.
 * - A frame of a flow that is known to be admitted may one day go from veth to veth at the beginning
 *   of millrace_pod_tx; everything behind it stays as it is.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

#define TAGS 4096
#define TAG_MASK 0xfff
#define MAX_PORTS 8192

/* dataplane/drivers/trunkmaps.py has the same; a change of any layout here is a new VERSION there. */
enum reason {
	TO_TRUNK,	/* sent on, with the pod's tag */
	TO_POD,		/* handed to the pod */
	POD_TAGGED,	/* dropped: a pod sent a frame with a tag of its own */
	POD_UNKNOWN,	/* dropped: from a veth that has no tag (yet) */
	POD_NO_ROOM,	/* dropped: no memory for the tag */
	TRUNK_UNTAGGED,	/* dropped: OVS sent a frame without a tag */
	TRUNK_UNKNOWN,	/* dropped: its tag is no pod's */
	TRUNK_NO_ROOM,	/* dropped: the tag could not be taken off */
	REASONS,
};

/* What is sent to this pod passes the egress hook of its veth, where its limit is. */
#define POD_LIMITED 1
/* Copies of what is sent to this pod go to the device of `trunk_mirror`; of what it sends likewise. */
#define POD_MIRRORED 2
#define TAG_MIRRORED (1U << 31)

struct trunk_port {
	__u32 trunk;	/* ifindex */
	__u32 tag;	/* and TAG_MIRRORED */
};

struct trunk_pod {
	__u32 ifindex;	/* of the veth's end at the host; 0: no pod */
	__u32 flags;
};

struct count {
	__u64 packets;
	__u64 octets;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct trunk_port);
} trunk_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TAGS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct trunk_pod);
} trunk_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct count);
} trunk_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32); /* ifindex; 0: none */
} trunk_mirror SEC(".maps");

/* Of one pod, since it has its tag. */
struct traffic {
	struct count sent;
	struct count received;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TAGS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct traffic);
} trunk_traffic SEC(".maps");

/* What is still to be cut up counts as what it will be. */
static __always_inline void add(struct count *count, struct __sk_buff *skb)
{
	count->packets += skb->gso_segs ? skb->gso_segs : 1;
	count->octets += skb->len;
}

static __always_inline int counted(struct __sk_buff *skb, __u32 reason, int action)
{
	struct count *count = bpf_map_lookup_elem(&trunk_counters, &reason);

	if (count)
		add(count, skb);
	return action;
}

/* A copy that cannot be made is missed by whoever looks on, not by the pod. */
static __always_inline void copy(struct __sk_buff *skb)
{
	__u32 only = 0;
	__u32 *to = bpf_map_lookup_elem(&trunk_mirror, &only);

	if (to && *to)
		bpf_clone_redirect(skb, *to, 0);
}

SEC("tc")
int millrace_pod_tx(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct trunk_port *port;
	struct traffic *traffic;
	__u32 tag;

	if (skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) ||
	    skb->protocol == bpf_htons(ETH_P_8021AD))
		return counted(skb, POD_TAGGED, TC_ACT_SHOT);
	port = bpf_map_lookup_elem(&trunk_ports, &ifindex);
	if (!port)
		return counted(skb, POD_UNKNOWN, TC_ACT_SHOT);
	if (port->tag & TAG_MIRRORED)
		copy(skb);
	tag = port->tag & TAG_MASK;
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tag))
		return counted(skb, POD_NO_ROOM, TC_ACT_SHOT);
	counted(skb, TO_TRUNK, TC_ACT_OK);
	traffic = bpf_map_lookup_elem(&trunk_traffic, &tag);
	if (traffic)
		add(&traffic->sent, skb);
	return bpf_redirect(port->trunk, 0);
}

SEC("tc")
int millrace_trunk(struct __sk_buff *skb)
{
	struct traffic *traffic;
	struct trunk_pod *pod;
	__u32 tag;

	if (!skb->vlan_present)
		return counted(skb, TRUNK_UNTAGGED, TC_ACT_SHOT);
	tag = skb->vlan_tci & TAG_MASK;
	pod = bpf_map_lookup_elem(&trunk_pods, &tag);
	if (!pod || !pod->ifindex)
		return counted(skb, TRUNK_UNKNOWN, TC_ACT_SHOT);
	if (bpf_skb_vlan_pop(skb))
		return counted(skb, TRUNK_NO_ROOM, TC_ACT_SHOT);
	counted(skb, TO_POD, TC_ACT_OK);
	traffic = bpf_map_lookup_elem(&trunk_traffic, &tag);
	if (traffic)
		add(&traffic->received, skb);
	if (pod->flags & POD_MIRRORED)
		copy(skb);
	if (pod->flags & POD_LIMITED)
		return bpf_redirect(pod->ifindex, 0);
	return bpf_redirect_peer(pod->ifindex, 0);
}
