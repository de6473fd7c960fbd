"""Source, sinks and our own contestant of `millrace perf peers`: programs, loaded and filled.

Our program is the node's own object with all of its maps. Where a packet is to end in a device
and not in an AF_XDP socket, its map of sockets is a map of devices: the program's instructions are
the same (its tag says so), and the kernel redirects to what the map holds.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

import numpy as np

from bpf import abi, pick
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import libbpf_types as t
from dataplane.drivers.bpfstate import FUNCTIONS
from dataplane.drivers.libbpf import Closing, Map, call
from dataplane.drivers.libbpf_programs import Object, Program
from dataplane.drivers.mapbulk import dtype_of, read_array, write_array
from dataplane.drivers.tidying import Tidying
from dataplane.model.addr import L4Addr, Mac, Protocol, mac_of_address
from dataplane.model.rows import ProgramKind
from dataplane.ports import DataplaneError
from perf import peerlab
from perf.ctstate import FIRST_LIFE, Counted, counted
from perf.strides import IN_ORDER

_DEVMAP, _XSKMAP = 14, 17
_LIVE_FRAMES = 1 << 1
"""BPF_F_TEST_XDP_LIVE_FRAMES."""

FRAME_SIZE = 80
_CLIENT_PORT = 1024
_LONG_TICKS = 1_000_000
_TURNOVER = 2
"""Flows for each record, before anything is measured: records are not given out evenly."""


class PeersError(DataplaneError):
    """The comparison would not be of what it says."""


def request(target: IPv4Address, destination: Mac, port: int = peerlab.PORT) -> bytes:
    """A UDP packet of the first client to a service, checksums right."""
    size = FRAME_SIZE - 14
    source = peerlab.CLIENTS[0]
    body = bytes(size - 28)
    udp = struct.pack("!HHHH", _CLIENT_PORT, port, size - 20, 0)
    pseudo = source.packed + target.packed + struct.pack("!HH", 17, size - 20)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + body)) + body
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0, 64, 17, 0) + source.packed + target.packed
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    return destination.packed() + bytes.fromhex("0200000000c1") + b"\x08\x00" + ip + udp


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Source(Closing):
    """Frames that come in at a device: `peers_send` with a contestant behind it.

    Args:
        program: `peers_send`; or `peers_flood`, which has none behind it: what it makes leaves by
            the device.
    """

    def __init__(self, program: str = "peers_send") -> None:
        with ExitStack() as stack:
            made = stack.enter_context(Object(OBJECT_DIRECTORY / "perf_peers.bpf.o"))
            made.load()
            self._send = stack.enter_context(made.program(program))
            self._plan = stack.enter_context(made.map("peers_plan"))
            self._target = stack.enter_context(made.map("peers_target"))
            self._count = stack.enter_context(made.map("peers_count"))
            self.xsks = stack.enter_context(made.map("peers_xsks"))
            self.kernel = stack.enter_context(made.program("peers_pass"))
            self.sink = stack.enter_context(made.program("peers_sink"))
            self.to_xsk = stack.enter_context(made.program("peers_to_xsk"))
            self._open = stack.pop_all()

    def close(self) -> None:
        """Let go of everything."""
        self._open.close()

    def aim(
        self,
        head: bytes,
        flows: int,
        contestant: Program | None = None,
        *,
        first: int = 0,
        stride: int = IN_ORDER,
    ) -> None:
        """What is sent from now on: `flows` 5-tuples in turn, through `contestant`.

        Args:
            head: a frame of the first of them.
            flows: how many there are.
            contestant: whose program gets them.
            first: the number of the one to begin with.
            stride: from one to the next.
        """
        padded = head.ljust(abi.Limit.PERF_HEAD, b"\0")
        plan = abi.PERF_PLAN.pack(head=padded, flows=flows, next=first, stride=stride)
        self._plan.update(bytes(4), plan)
        if contestant is not None:
            self._target.update(bytes(4), struct.pack("=I", contestant.fd))

    def send(self, ifindex: int, head: bytes, count: int) -> float:
        """Send so many; the processor time that this thread spent on it [s].

        Not the time that passed: building and removing the kernel's test takes 20 ms, asleep. What
        packets make the kernel do, it does at the end of each batch, in this thread. Call it in
        the network namespace of the device.
        """
        context = t.XdpMd(data_end=len(head), ingress_ifindex=ifindex)
        options = t.TestRunOptions(
            sz=ctypes.sizeof(t.TestRunOptions),
            data_in=ctypes.cast(ctypes.c_char_p(head), ctypes.c_void_p),
            data_size_in=len(head),
            ctx_in=ctypes.cast(ctypes.byref(context), ctypes.c_void_p),
            ctx_size_in=ctypes.sizeof(context),
            repeat=count,
            flags=_LIVE_FRAMES,
            batch_size=64,
        )
        began = time.thread_time()
        call("send frames", "bpf_prog_test_run_opts", self._send.fd, ctypes.byref(options))
        return time.thread_time() - began

    def feed(self, head: bytes, count: int) -> None:
        """Send so many that end behind the contestant: none is forwarded, nothing is measured."""
        self._send.run(head, repeat=count)

    def counted(self) -> int:
        """What `sink` and `to_xsk` have seen so far."""
        value = self._count.lookup(bytes(4)) or b""
        return int(np.frombuffer(value, np.uint64).sum())


class Ours(Closing):
    """The uplink's program over maps of its own with so many services.

    Args:
        services: all alike, of two backends each, SNAT for every client.
        gateway_mac: where translated packets are sent to.
        next_hop: a descriptor of an AF_XDP socket, or the number of a device.
    """

    def __init__(
        self, services: int, gateway_mac: Mac, *, socket_fd: int | None = None, ifindex: int = 0
    ) -> None:
        kind, value = (_DEVMAP, ifindex) if socket_fd is None else (_XSKMAP, socket_fd)
        with ExitStack() as stack:
            next_hop = stack.enter_context(Map.create(kind, "xsks_map", 4, 4, 64))
            next_hop.update(bytes(4), struct.pack("=I", value))
            made = stack.enter_context(Object(OBJECT_DIRECTORY / "uplink.bpf.o"))
            for name in abi.MAPS:
                made.keep_private(name)
            made.reuse("xsks_map", next_hop)
            made.load()
            self.program = stack.enter_context(made.program(FUNCTIONS[ProgramKind.UPLINK]))
            self.maps = {name: stack.enter_context(made.map(name)) for name in abi.MAPS}
            self._tidying = stack.enter_context(Tidying(self.maps))
            self._open = stack.pop_all()
        self.tag = self.program.info().tag
        self._fill(services, gateway_mac)

    def close(self) -> None:
        """Let go of everything."""
        self._open.close()

    def use_up(
        self, source: Source, heads: Sequence[bytes], firsts: Sequence[int], flows: int
    ) -> None:
        """Bring the table to the state of a node in use: a record that a flow gets had others.

        First flows of many services, twice as many as there are records; then rounds of such as are
        to be measured. One service alone uses but its two backends' stretches of the table.

        Args:
            source: from where flows come.
            heads: a frame to each of these services; the last one is to be measured.
            firsts: for each round the number of its first 5-tuple.
            flows: of a round.
        """
        slots = self.maps["ct4"].info.max_entries
        each = min(flows, -(-_TURNOVER * slots // len(heads)))
        for number, head in enumerate(heads):
            source.aim(head, each, self.program)
            source.feed(head, each)
            if number * each // flows != (number + 1) * each // flows:
                self.end_flows()
        for first in firsts:
            self.end_flows()
            source.aim(heads[-1], first + flows, self.program, first=first)
            source.feed(heads[-1], flows)
        self.end_flows()

    def forget_flows(self) -> None:
        """Every flow is over, and what it left is cleared, as the daemon does every ten seconds."""
        self.end_flows()
        self._tidying.run()

    def end_flows(self) -> None:
        """Every flow is over; the words that name them stay."""
        flows = read_array(self.maps["ct4"], dtype_of(abi.FLOW4))
        flows["life"] += flows["life"] & 1
        write_array(self.maps["ct4"], flows)

    def words_left(self) -> int:
        """How many words there are of flows that are over."""
        bucket = np.dtype((np.uint32, (abi.INDEX_BUCKET.size // abi.U32,)))
        buckets = read_array(self.maps["ct4_tags"], bucket)
        flows = read_array(self.maps["ct4"], dtype_of(abi.FLOW4))
        words = np.count_nonzero(buckets[:, -abi.Limit.INDEX_WAYS :])
        return int(words) - int((flows["life"] & 1).sum())

    def first_lives(self) -> int:
        """How many flows have a record that no flow had before."""
        return int((read_array(self.maps["ct4"], dtype_of(abi.FLOW4))["life"] == FIRST_LIFE).sum())

    def reasons(self) -> Mapping[Counted, int]:
        """Packets by what became of them, and what else happened."""
        return counted(self.maps["counters"])

    def _fill(self, services: int, gateway_mac: Mac) -> None:
        per = peerlab.BACKENDS_PER_SERVICE
        vips, sets, members, backends = [], [], [], []
        bits: dict[int, int] = {}
        for number in range(services):
            vip = peerlab.vip(number)
            key = abi.VIP_KEY.pack(addr=_mapped(vip), port=peerlab.PORT, proto=Protocol.UDP, pad=0)
            flags = abi.VipFlag.VIP_SNAT | abi.VipFlag.VIP_REJECT
            vips.append(
                (key, abi.VIP.pack(service_id=number, flags=flags, affinity_ticks=0, pad=0))
            )
            bit = pick.filter_bit(vip.packed, peerlab.PORT, Protocol.UDP, sys.byteorder)
            bits[bit // 64] = bits.get(bit // 64, 0) | 1 << bit % 64
            of_set = []
            for index in range(per):
                backend_id = 1 + number * per + index
                target = L4Addr(Protocol.UDP, peerlab.backend(number, index), peerlab.BACKEND_PORT)
                of_set.append((pick.member_key(str(target)), backend_id))
                backends.append(
                    (
                        _u32(backend_id),
                        abi.BACKEND.pack(
                            addr=_mapped(target.address),
                            port=target.port,
                            proto=target.protocol,
                            place=abi.Place.PLACE_LOCAL,
                            mtu=1500,
                            mac=bytes(6),
                            pad=0,
                        ),
                    )
                )
            for at, (member_key, backend_id) in enumerate(sorted(of_set)):
                members.append(
                    (
                        _u32(number * per + at),
                        abi.MEMBER.pack(backend_id=backend_id, key=member_key),
                    )
                )
            entry = abi.SET.pack(first=number * per, count=per, mode=abi.SetMode.SET_LIST, pad=0)
            sets.append((_u32(2 * number), entry))
        self.maps["backends"].update_batch(backends)
        self.maps["members"].update_batch(members)
        self.maps["sets"].update_batch(sets)
        self.maps["vips"].update_batch(vips)
        self.maps["vip_bits"].update_batch(
            [(_u32(word), struct.pack("=Q", value)) for word, value in bits.items()]
        )
        self.maps["node"].update(bytes(4), _node(gateway_mac, self.maps))


def _node(gateway_mac: Mac, maps: Mapping[str, Map]) -> bytes:
    """A node whose svc0 has SERVICE_ADDRESS, and whose flows do not end by themselves."""
    service_mac = mac_of_address(peerlab.SERVICE_ADDRESS).packed()
    return abi.NODE.pack(
        flags=abi.NodeFlag.NODE_VALID4,
        tick=0,
        ct_seed=0x5EED,
        pick_seed=abi.Limit.PICK_SEED,
        ct4_mask=maps["ct4_tags"].info.max_entries - 1,
        ct4_reply_mask=maps["ct4_replies"].info.max_entries - 1,
        ct6_mask=maps["ct6_tags"].info.max_entries - 1,
        ct6_reply_mask=maps["ct6_replies"].info.max_entries - 1,
        service_addr4=peerlab.SERVICE_ADDRESS.packed,
        uplink_ifindex=1,
        svc_ifindex=1,
        service_mac=service_mac,
        gateway_mac=gateway_mac.packed(),
        uplink_mac=service_mac,
        pad=bytes(2),
        service_addr6=bytes(16),
        local4=bytes(4 * abi.Limit.LOCAL4_INLINE),
        timeouts=struct.pack("=I", _LONG_TICKS) * abi.CtState.CT_STATES,
    )


def _mapped(address: object) -> bytes:
    """An IPv4 address as ::ffff:a.b.c.d."""
    assert isinstance(address, IPv4Address)
    return bytes(10) + b"\xff\xff" + address.packed


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)
