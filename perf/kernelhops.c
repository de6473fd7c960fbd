// SPDX-License-Identifier: Apache-2.0
/*
 * What packets wait for inside the kernel: the time between two tracepoints that saw the same
 * socket buffer, in histograms by where it was seen. For BCC; perf.kerneltrace compiles it.
 *
 * Only the tracepoints' own records are read, whose layout BCC takes from the kernel that runs.
 * So the header tree may be another kernel's: nothing of a struct in it is used.
 *
 * HAVE_*: this kernel has the tracepoint. The numbers of events are perf.kernelhops's.
 */

#define DEVICE 16

enum event { ENTERED, POLLED, BACKLOG, RECEIVED, QUEUED, SENT, FREED, DROPPED };
enum work { TX_WAITED, TX_RAN, RX_WAITED, RX_RAN };
enum xdp { REDIRECTED, REDIRECT_FAILED, EXCEPTION, SENT_BY_MAP, DROPPED_BY_MAP };

/* A part of the record of skb:kfree_skb; the values are in its format, and perf.kerneltrace reads
 * them there. */
enum skb_drop_reason { SOME_REASON };

struct device {
	char name[DEVICE];
};

struct packet {
	u64 at;
	u64 entered;
	u32 event;
	u32 run;
	struct device device;
	struct device entry;
};

struct hop {
	u32 from;
	u32 to;
	u32 slot;
	struct device from_device;
	struct device to_device;
};

struct reason {
	u32 number;
	struct device device;
};

struct slice {
	u32 work;
	u32 slot;
};

struct polls {
	u64 calls;
	u64 packets;
	u64 exhausted;
};

struct redirect {
	u32 kind;
	u32 from;
	u32 to;
};

/* Of all namespaces; where there are more at once, those that were seen longest ago go. */
BPF_TABLE("lru_hash", u64, struct packet, packets, 131072);
BPF_TABLE("percpu_hash", struct hop, u64, hops, 16384);
BPF_TABLE("percpu_hash", struct reason, u64, reasons, 1024);
BPF_TABLE("percpu_hash", struct slice, u64, slices, 2048);
BPF_TABLE("percpu_hash", struct device, struct polls, polled, 1024);
BPF_TABLE("percpu_hash", struct redirect, u64, redirects, 1024);
BPF_PERCPU_ARRAY(raised, u64, 4);
BPF_PERCPU_ARRAY(running, u64, 4);
BPF_PERCPU_ARRAY(untold, u64, 1);
BPF_PERCPU_ARRAY(runs, u32, 1);

/* Eight slots for each power of two: a slot is at most an eighth wide. */
static __always_inline u32 slot_of(u64 ns)
{
	u32 top;

	if (ns < 8)
		return ns;
	top = bpf_log2l(ns) - 1;
	return (top - 2) * 8 + ((ns >> (top - 3)) & 7);
}

static __always_inline void add(u32 from, struct device *from_device, u32 to,
				struct device *to_device, u64 ns)
{
	struct hop hop = {.from = from, .to = to, .slot = slot_of(ns)};
	u64 none = 0, *count;
	u32 only = 0;

	hop.from_device = *from_device;
	hop.to_device = *to_device;
	count = hops.lookup_or_try_init(&hop, &none);
	if (!count)
		count = untold.lookup(&only);
	if (count)
		*count += 1;
}

/*
 * The processor and its turn: a poll, a softirq, and what is between them. Threads that poll run no
 * softirq for it, and its tracepoint is at its end: what a program sends then is of the next turn.
 */
static __always_inline u32 this_run(void)
{
	u32 only = 0, *turn = runs.lookup(&only);

	return (turn ? *turn << 8 : 0) | (bpf_get_smp_processor_id() & 255);
}

static __always_inline void another_run(void)
{
	u32 only = 0, *turn = runs.lookup(&only);

	if (turn)
		*turn += 1;
}

/*
 * Whether a buffer may go from one event to the other. Some are freed where no tracepoint is
 * (those that GRO merged, those that TCP has read), and the next to have the address is another
 * packet. What is forwarded is so by who received it, at once: what somebody sends later is another.
 */
static __always_inline bool follows(struct packet *packet, u32 now)
{
	u32 before = packet->event;

	switch (now) {
	case POLLED:
	case BACKLOG:
		return before == SENT;
	case RECEIVED:
		return before != QUEUED;
	case QUEUED:
		return before == SENT || (before == RECEIVED && packet->run == this_run());
	case SENT:
		return before == QUEUED;
	}
	return true;
}

static __always_inline void seen(u64 address, u32 event, struct device *device)
{
	u64 now = bpf_ktime_get_ns();
	struct packet *before = packets.lookup(&address);
	struct packet fresh = {};
	bool inward = event == POLLED || event == BACKLOG || event == RECEIVED;

	if (before && follows(before, event)) {
		add(before->event, &before->device, event, device, now - before->at);
		if (inward && !before->entered) {
			before->entered = now;
			before->entry = *device;
		} else if (event == SENT && before->entered) {
			add(ENTERED, &before->entry, SENT, device, now - before->entered);
			before->entered = 0;
		}
		before->at = now;
		before->event = event;
		before->run = this_run();
		before->device = *device;
		return;
	}
	/* A queue's own packet begins when it is queued, and what is sent past a queue when it is
	 * sent. */
	fresh.at = now;
	fresh.event = event;
	fresh.run = this_run();
	fresh.device = *device;
	if (inward) {
		fresh.entered = now;
		fresh.entry = *device;
	}
	packets.update(&address, &fresh);
}

static __always_inline void ended(u64 address, u32 event, u32 reason)
{
	struct packet *before = packets.lookup(&address);
	struct device nowhere = {};
	struct reason why = {.number = reason};
	u64 none = 0, *count;

	if (!before)
		return;
	add(before->event, &before->device, event, &nowhere, bpf_ktime_get_ns() - before->at);
	if (event == DROPPED) {
		why.device = before->device;
		count = reasons.lookup_or_try_init(&why, &none);
		if (count)
			*count += 1;
	}
	packets.delete(&address);
}

#define NAMED(device, args, field) \
	struct device device = {}; \
	TP_DATA_LOC_READ_STR(device.name, field, DEVICE)

#define SEES(tracepoint, event) \
	TRACEPOINT_PROBE(net, tracepoint) \
	{ \
		NAMED(device, args, name); \
		seen((u64)args->skbaddr, event, &device); \
		return 0; \
	}

SEES(netif_receive_skb, RECEIVED)
SEES(net_dev_queue, QUEUED)
SEES(net_dev_start_xmit, SENT)
#ifdef HAVE_NET_NAPI_GRO_RECEIVE_ENTRY
SEES(napi_gro_receive_entry, POLLED)
#endif
#ifdef HAVE_NET_NETIF_RX
SEES(netif_rx, BACKLOG)
#endif

#ifdef HAVE_SKB_CONSUME_SKB
TRACEPOINT_PROBE(skb, consume_skb)
{
	ended((u64)args->skbaddr, FREED, 0);
	return 0;
}
#endif

#ifdef HAVE_SKB_KFREE_SKB
TRACEPOINT_PROBE(skb, kfree_skb)
{
#ifdef HAVE_REASON
	ended((u64)args->skbaddr, DROPPED, args->reason);
#else
	ended((u64)args->skbaddr, DROPPED, 0);
#endif
	return 0;
}
#endif

#ifdef HAVE_SOFTIRQ
#define NET_TX 2
#define NET_RX 3

static __always_inline void took(u32 work, u64 ns)
{
	struct slice slice = {.work = work, .slot = slot_of(ns)};
	u64 none = 0, *count = slices.lookup_or_try_init(&slice, &none);

	if (count)
		*count += 1;
}

TRACEPOINT_PROBE(irq, softirq_raise)
{
	u32 vec = args->vec;
	u64 *at;

	if (vec != NET_TX && vec != NET_RX)
		return 0;
	at = raised.lookup(&vec);
	/* Raised again before it began: the first one waits. */
	if (at && !*at)
		*at = bpf_ktime_get_ns();
	return 0;
}

TRACEPOINT_PROBE(irq, softirq_entry)
{
	u32 vec = args->vec;
	u64 now = bpf_ktime_get_ns(), *at;

	if (vec != NET_TX && vec != NET_RX)
		return 0;
	another_run();
	at = raised.lookup(&vec);
	if (at && *at) {
		took(vec == NET_TX ? TX_WAITED : RX_WAITED, now - *at);
		*at = 0;
	}
	at = running.lookup(&vec);
	if (at)
		*at = now;
	return 0;
}

TRACEPOINT_PROBE(irq, softirq_exit)
{
	u32 vec = args->vec;
	u64 *at;

	if (vec != NET_TX && vec != NET_RX)
		return 0;
	another_run();
	at = running.lookup(&vec);
	if (at && *at) {
		took(vec == NET_TX ? TX_RAN : RX_RAN, bpf_ktime_get_ns() - *at);
		*at = 0;
	}
	return 0;
}
#endif

#ifdef HAVE_NAPI_NAPI_POLL
TRACEPOINT_PROBE(napi, napi_poll)
{
	NAMED(device, args, dev_name);
	struct polls none = {}, *told = polled.lookup_or_try_init(&device, &none);

	another_run();
	if (told) {
		told->calls += 1;
		told->packets += args->work;
		told->exhausted += args->work >= args->budget;
	}
	return 0;
}
#endif

static __always_inline void redirected(u32 kind, u32 from, u32 to, u64 by)
{
	struct redirect which = {.kind = kind, .from = from, .to = to};
	u64 none = 0, *count;

	if (!by)
		return;
	count = redirects.lookup_or_try_init(&which, &none);
	if (count)
		*count += by;
}

#ifdef HAVE_XDP_XDP_REDIRECT
TRACEPOINT_PROBE(xdp, xdp_redirect)
{
	redirected(REDIRECTED, args->ifindex, args->to_ifindex, 1);
	return 0;
}
#endif

#ifdef HAVE_XDP_XDP_REDIRECT_ERR
TRACEPOINT_PROBE(xdp, xdp_redirect_err)
{
	redirected(REDIRECT_FAILED, args->ifindex, args->to_ifindex, 1);
	return 0;
}
#endif

#ifdef HAVE_XDP_XDP_EXCEPTION
TRACEPOINT_PROBE(xdp, xdp_exception)
{
	redirected(EXCEPTION, args->ifindex, 0, 1);
	return 0;
}
#endif

#ifdef HAVE_XDP_XDP_DEVMAP_XMIT
TRACEPOINT_PROBE(xdp, xdp_devmap_xmit)
{
	redirected(SENT_BY_MAP, args->from_ifindex, args->to_ifindex, args->sent);
	redirected(DROPPED_BY_MAP, args->from_ifindex, args->to_ifindex, args->drops);
	return 0;
}
#endif
