"""Two pods and the trunk on real veths; the test itself is at the trunk's other end, as OVS is."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from controller.attachments import AttachmentStore
from controller.dump import BY_COUNT, BY_TIME, Order, Outcome, dump
from dataplane.drivers import netns, podlink
from dataplane.drivers.bpfstate import remove_pins
from dataplane.drivers.links import LinksTable
from dataplane.drivers.mirrors import MirrorError
from dataplane.drivers.pcapfile import packets
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.podtap import PodTap, TapError, TapGoneError
from dataplane.drivers.trunk import TrunkTable
from dataplane.drivers.trunkmaps import TrunkReason
from dataplane.model.addr import Mac
from dataplane.model.devices import device_name, peer_name
from dataplane.model.names import MIRROR_LINK, MIRROR_PORT, TRUNK_LINK, TRUNK_PORT
from dataplane.model.rows import Bucket, Link, TrunkEnd
from dataplane.model.state import Attachment, PortKind
from tests.labs.attachments import WEB
from tests.labs.planned import CONFIG
from tests.labs.sandbox import wait_until

pytestmark = pytest.mark.netns

NetnsMaker = Callable[[str], str]

KIND = b"\x88\xb5"
"""An experimental EtherType: nobody answers it, and only ours is counted."""

TRUNK = Link(TRUNK_PORT, Mac("02:00:00:00:00:10"), 1500, 1, (), tags_in_frames=True)
SOL_PACKET, PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata (packet(7)): status, len, snaplen, mac, net, vlan_tci, vlan_tpid."""

TP_STATUS_VLAN_VALID = 1 << 4


@dataclass(frozen=True)
class Node:
    """Both tables and two pods."""

    table: TrunkTable
    root: str
    pods: tuple[Attachment, Attachment]

    def rows(self) -> dict[str, TrunkEnd]:
        return {
            TRUNK_LINK: TrunkEnd(0, TRUNK_LINK),
            self.pods[0].device: TrunkEnd(5, TRUNK_LINK),
            self.pods[1].device: TrunkEnd(4094, TRUNK_LINK),
        }

    def put(self, rows: dict[str, TrunkEnd]) -> None:
        assert self.table.upsert(list(rows.items())) == {}


def be_quiet() -> None:
    """What a kernel says by itself over IPv6 would be paid for out of the buckets."""
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1", encoding="ascii")


@pytest.fixture
def node(new_netns: NetnsMaker, tmp_path: Path) -> Iterator[Node]:
    be_quiet()
    assert LinksTable().upsert([(TRUNK_LINK, TRUNK)]) == {}
    pods = []
    for number in (1, 2):
        container = f"{tmp_path.name}-{number}-{os.getpid()}"
        pods.append(
            replace(
                WEB,
                container_id=container,
                netns=new_netns(f"pod{number}"),
                device=device_name(PortKind.VETH, container, "eth0"),
                peer=peer_name(PortKind.VETH, container, "eth0"),
                mac=Mac(f"02:00:00:00:00:0{number}"),
                addresses=(IPv4Interface(f"10.9.0.{number}/24"),),
                gateway=None,
                mtu=1442,
            )
        )
        with netns.opened(pods[-1].netns) as fd:
            netns.inside(fd, pods[-1].netns, be_quiet)
        podlink.ensure(pods[-1])
    bpffs = tmp_path / "bpffs"
    bpffs.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(bpffs)], check=True)
    root = str(bpffs / "node")
    table = TrunkTable(root)
    try:
        yield Node(table, root, (pods[0], pods[1]))
    finally:
        table.close()
        remove_pins(root)
        subprocess.run(["umount", str(bpffs)], check=True)
        LinksTable().delete([TRUNK_LINK])


def raw(device: str, protocol: int = 3) -> socket.socket:
    """A packet socket of the calling thread's namespace that sees VLAN tags."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    made.bind((device, protocol))
    made.settimeout(0.3)
    return made


def in_pod(pod: Attachment, work: Callable[[], socket.socket]) -> socket.socket:
    with netns.opened(pod.netns) as fd:
        return netns.inside(fd, pod.netns, work)


def received(sock: socket.socket) -> tuple[bytes, int | None]:
    """A frame and the tag beside it."""
    frame, notes, _, sender = sock.recvmsg(70000, 256)
    if sender[2] == socket.PACKET_OUTGOING:
        return b"", None
    for level, kind, octets in notes:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tci, _ = _AUXDATA.unpack(octets[: _AUXDATA.size])
            return frame, tci & 0xFFF if status & TP_STATUS_VLAN_VALID else None
    return frame, None


def arriving(sock: socket.socket, send: Callable[[], object]) -> list[tuple[bytes, int | None]]:
    """What arrives with our EtherType after `send`."""
    send()
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame, tag = received(sock)
            if frame[12:14] == KIND:
                found.append((frame, tag))
    return found


def frame(source: int, to: int, inner: bytes = KIND + b"m" * 80) -> bytes:
    return bytes((2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, source)) + inner


def tagged(tag: int, octets: bytes) -> bytes:
    return octets[:12] + b"\x81\x00" + tag.to_bytes(2) + octets[12:]


def up(node: Node) -> None:
    """The links carry frames: a veth takes a moment."""
    with raw(TRUNK_PORT) as ovs, in_pod(node.pods[0], lambda: raw("eth0")) as pod:
        wait_until(lambda: bool(arriving(ovs, lambda: pod.send(frame(1, 2)))), "links up")


def test_ends_are_made_once_and_found_again(node: Node) -> None:
    rows = node.rows()
    node.put(rows)
    assert node.table.observe() == rows
    with contextlib.closing(TrunkTable(node.root)) as again:
        assert again.observe() == rows
        changed = {node.pods[0].device: TrunkEnd(7, TRUNK_LINK, limited=True)}
        assert again.upsert(list(changed.items())) == {}
        assert again.observe() == {**rows, **changed}
        assert again.delete(list(rows)) == {}
        assert again.observe() == {}
        assert again.delete(list(rows)) == {}


def test_a_pods_frames_carry_its_tag_and_only_its_own(node: Node) -> None:
    node.put(node.rows())
    up(node)
    with raw(TRUNK_PORT) as ovs, in_pod(node.pods[0], lambda: raw("eth0")) as pod:
        plain = frame(1, 2)
        assert arriving(ovs, lambda: pod.send(plain)) == [(plain, 5)]
        before = node.table.counted().get(TrunkReason.POD_TAGGED)
        for kind in (b"\x81\x00", b"\x88\xa8"):
            forged = plain[:12] + kind + b"\x0f\xfe" + plain[12:]
            assert arriving(ovs, partial(pod.send, forged)) == []
        assert before is None
        assert node.table.counted()[TrunkReason.POD_TAGGED].packets == 2


def test_a_tag_leads_to_its_pod_and_nowhere_else(node: Node) -> None:
    node.put(node.rows())
    up(node)
    with (
        raw(TRUNK_PORT) as ovs,
        in_pod(node.pods[0], lambda: raw("eth0")) as first,
        in_pod(node.pods[1], lambda: raw("eth0")) as second,
    ):
        plain = frame(1, 2)
        assert arriving(second, lambda: ovs.send(tagged(4094, plain))) == [(plain, None)]
        assert arriving(first, lambda: None) == []
        assert arriving(first, lambda: ovs.send(tagged(6, plain))) == []
        assert arriving(second, lambda: ovs.send(plain)) == []
    counted = node.table.counted()
    assert counted[TrunkReason.TRUNK_UNKNOWN].packets == 1
    assert counted[TrunkReason.TRUNK_UNTAGGED].packets == 1


@pytest.fixture
def mirror() -> Iterator[None]:
    link = Link(MIRROR_PORT, Mac("02:00:00:00:00:20"), 1500, 1, ())
    assert LinksTable().upsert([(MIRROR_LINK, link)]) == {}
    yield
    LinksTable().delete([MIRROR_LINK])


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("limited", [False, True])
def test_copies_of_one_pods_frames_come_out_at_the_mirror(node: Node, limited: bool) -> None:
    looked_at = TrunkEnd(5, TRUNK_LINK, limited, MIRROR_PORT)
    rows = {**node.rows(), node.pods[0].device: looked_at}
    node.put(rows)
    assert node.table.observe() == rows
    up(node)
    with (
        raw(TRUNK_PORT) as ovs,
        raw(MIRROR_LINK) as there,
        in_pod(node.pods[0], lambda: raw("eth0")) as first,
        in_pod(node.pods[1], lambda: raw("eth0")) as second,
    ):
        sent, given, other = frame(1, 2), frame(2, 1), frame(2, 9)
        arriving(there, lambda: None)
        assert arriving(ovs, lambda: first.send(sent)) == [(sent, 5)]
        assert arriving(first, lambda: ovs.send(tagged(5, given))) == [(given, None)]
        assert arriving(ovs, lambda: second.send(other)) == [(other, 4094)]
        assert arriving(there, lambda: None) == [(sent, None), (given, None)]
        # Without the wish there are none.
        node.put(node.rows())
        assert node.table.observe() == node.rows()
        assert arriving(ovs, lambda: first.send(sent)) == [(sent, 5)]
        assert arriving(there, lambda: None) == []
    node.put(rows)
    LinksTable().delete([MIRROR_LINK])
    assert node.table.observe() != rows
    assert node.table.upsert(list(rows.items()))[node.pods[0].device].waiting


def switch(ovs: socket.socket, tags: dict[int, int], sizes: list[int]) -> None:
    """Between two tags, until the socket times out."""
    with contextlib.suppress(TimeoutError):
        while True:
            octets, tag = received(ovs)
            if tag in tags:
                sizes.append(len(octets))
                ovs.send(tagged(tags[tag], octets))


def test_a_stream_crosses_whole_in_packets_of_the_mtu(node: Node) -> None:
    node.put(node.rows())
    up(node)
    sizes: list[int] = []
    data = os.urandom(300_000)
    with raw(TRUNK_PORT) as ovs:
        ovs.settimeout(3)
        switching = threading.Thread(target=switch, args=(ovs, {5: 4094, 4094: 5}, sizes))
        switching.start()
        with (
            in_pod(node.pods[1], lambda: socket.create_server(("10.9.0.2", 9000))) as server,
            in_pod(
                node.pods[0], lambda: socket.create_connection(("10.9.0.2", 9000), timeout=20)
            ) as client,
        ):
            server.settimeout(20)
            peer, _ = server.accept()
            with peer:
                sending = threading.Thread(target=client.sendall, args=(data,))
                sending.start()
                got = bytearray()
                peer.settimeout(20)
                while len(got) < len(data):
                    got += peer.recv(1 << 16)
                sending.join()
        switching.join()
    traffic = node.table.traffic(5), node.table.traffic(4094)
    assert traffic[0] is not None
    assert traffic[1] is not None
    assert traffic[0].sent.octets > len(data)
    assert traffic[1].received.packets >= len(data) // 1442
    assert traffic[1].received.packets <= len(sizes)
    # The kernel of the other pod checked every checksum: nothing on the way says that it did.
    assert bytes(got) == data
    assert max(sizes) == 1442 + 14


def test_a_limited_pod_receives_through_its_bucket(node: Node) -> None:
    size = 1000
    rows = node.rows()
    limited = node.pods[1].device
    buckets = BucketTable()
    assert buckets.upsert([(limited, Bucket(0, 0, 1, 5 * size))]) == {}
    node.put({**rows, limited: replace(rows[limited], limited=True)})
    up(node)
    sent = tagged(4094, frame(1, 2, KIND + b"m" * size))
    with raw(TRUNK_PORT) as ovs, in_pod(node.pods[1], lambda: raw("eth0")) as pod:

        def send() -> None:
            for _ in range(20):
                ovs.send(sent)

        assert len(arriving(pod, send)) == 5
        assert buckets.delete([limited]) == {}
        node.put(rows)
        assert len(arriving(pod, send)) == 20


def test_a_limited_pod_sends_through_its_bucket(node: Node) -> None:
    size = 1000
    node.put(node.rows())
    up(node)
    # 14 octets of Ethernet are not counted.
    assert BucketTable().upsert([(node.pods[0].device, Bucket(1, 5 * size, 0, 0))]) == {}
    sent = frame(1, 2, KIND + b"m" * size)
    with raw(TRUNK_PORT) as ovs, in_pod(node.pods[0], lambda: raw("eth0")) as pod:

        def send() -> None:
            for _ in range(20):
                pod.send(sent)

        assert arriving(ovs, send) == [(sent, 5)] * 5


def test_a_pod_that_went_with_its_namespace_leaves_nothing(node: Node) -> None:
    rows = node.rows()
    node.put(rows)
    gone = node.pods[1].device
    with IPRoute() as ipr:
        ipr.link("del", ifname=gone)
    left = node.table.observe()
    assert left.keys() - rows.keys() == set(left) - {TRUNK_LINK, node.pods[0].device}
    stale = [name for name in left if name not in rows]
    assert len(stale) == 1
    assert node.table.upsert([(gone, rows[gone])])[gone].waiting
    assert node.table.delete(stale) == {}
    assert node.table.observe() == {n: rows[n] for n in rows if n != gone}
    assert node.table.delete([gone]) == {}


def test_a_trunk_made_anew_is_found_by_the_pods(node: Node) -> None:
    rows = node.rows()
    node.put(rows)
    with IPRoute() as ipr:
        ipr.link("del", ifname=TRUNK_LINK)
    assert TRUNK_LINK not in node.table.observe()
    assert node.table.upsert([(TRUNK_LINK, rows[TRUNK_LINK])])[TRUNK_LINK].waiting
    assert LinksTable().upsert([(TRUNK_LINK, TRUNK)]) == {}
    assert LinksTable().observe() == {TRUNK_LINK: TRUNK}
    assert node.table.observe() != rows
    node.put(rows)
    assert node.table.observe() == rows
    up(node)


def test_a_tag_has_one_holder(node: Node) -> None:
    rows = node.rows()
    node.put(rows)
    other = {node.pods[1].device: TrunkEnd(5, TRUNK_LINK)}
    failed = node.table.upsert(list(other.items()))[node.pods[1].device]
    assert failed.waiting
    assert "tag 5" in failed.reason
    assert node.table.observe() == rows


def heard(tap: PodTap, count: int) -> list[bytes]:
    """The next frames of our EtherType, with a VLAN tag or without."""
    found: list[bytes] = []
    while len(found) < count:
        packet = tap.next(10)
        assert packet is not None, f"{len(found)} of {count} frames"
        assert packet.time_ns > 0
        assert packet.size == len(packet.octets)
        if KIND in (packet.octets[12:14], packet.octets[16:18]):
            found.append(packet.octets)
    return found


@pytest.mark.parametrize("limited", [False, True])
def test_a_tap_hears_both_directions_of_one_pod_without_its_tag(node: Node, limited: bool) -> None:
    pod = node.pods[0]
    rows = node.rows()
    node.put({**rows, pod.device: replace(rows[pod.device], limited=limited)})
    up(node)
    said, told = frame(1, 2, KIND + b"s" * 80), frame(2, 1, KIND + b"t" * 80)
    own = tagged(77, said)
    with (
        raw(TRUNK_PORT) as ovs,
        in_pod(pod, lambda: raw("eth0")) as mine,
        in_pod(node.pods[1], lambda: raw("eth0")) as others,
        PodTap(pod.netns, "eth0") as tap,
    ):
        others.send(frame(2, 9))
        ovs.send(tagged(4094, frame(9, 2)))
        mine.send(said)
        assert heard(tap, 1) == [said]
        ovs.send(tagged(5, told))
        assert heard(tap, 1) == [told]
        mine.send(own)  # which the trunk drops
        assert heard(tap, 1) == [own]
        assert tap.lost() == 0


def test_a_tap_says_what_it_lost_and_when_the_pod_ends(node: Node) -> None:
    pod = node.pods[0]
    node.put(node.rows())
    up(node)
    with pytest.raises(TapError, match=r"eth9 in .* cannot be listened to"):
        PodTap(pod.netns, "eth9")
    with in_pod(pod, lambda: raw("eth0")) as mine, PodTap(pod.netns, "eth0") as tap:
        sent = frame(1, 2, KIND + b"m" * 1000)

        def lost() -> bool:
            for _ in range(5000):
                mine.send(sent)
            return tap.lost() > 0

        wait_until(lost, "the queue is full")
        assert heard(tap, 1) == [sent]
        podlink.remove(pod.device)
        with pytest.raises(TapGoneError, match="any more"):  # noqa: PT012 - after what was queued
            while tap.next(10) is not None:
                pass


def test_a_dump_of_a_pod_on_the_trunk_is_a_file_of_its_packets(node: Node, tmp_path: Path) -> None:
    pod = replace(node.pods[0], tag=5)
    node.put(node.rows())
    up(node)
    AttachmentStore(tmp_path / "attachments").put(pod)
    config = replace(CONFIG, statedir=str(tmp_path))
    file, sent, over = tmp_path / "pod.pcap", frame(1, 2), threading.Event()
    with in_pod(pod, lambda: raw("eth0")) as mine:

        def speak() -> None:
            while not over.wait(0.01):
                mine.send(sent)

        speaking = threading.Thread(target=speak)
        speaking.start()
        try:
            done = [
                dump(config, Order(name, file, None, 3, 60)) for name in (pod.iface_id, pod.device)
            ]
        finally:
            over.set()
            speaking.join()
    assert done == [Outcome(pod.iface_id, 3, BY_COUNT)] * 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert [len(one.octets) for one in packets(file)] == [len(sent)] * 3
    with pytest.raises(MirrorError, match=rf"has no port in OVS .* VLAN tag is {pod.tag}"):
        dump(config, Order(pod.iface_id, None, "vhu1", None, 1))
    assert dump(config, Order(pod.iface_id, file, None, None, 0.01)).ended_by == BY_TIME
