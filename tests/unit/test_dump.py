"""What `millrace dump` reads: pcap files, OVS's counters, marks of processes."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import pytest

from controller.dump import sent_packets
from dataplane.drivers.mirrors import alive, this_process
from dataplane.drivers.pcapfile import (
    Packet,
    PcapError,
    beginning,
    keep_first,
    packets,
    record,
)
from dataplane.drivers.podtap import packet_of

SHOWN = """\
netdev@ovs-netdev:
  lookups: hit:7 missed:1 lost:0
  flows: 1
  port 0: ovs-netdev (tap)
    RX packets:0 errors:? dropped:? overruns:? frame:?
    TX packets:9 errors:? dropped:? aborted:? carrier:?
  port 1: mrdump1 (dpdk: configured_rx_queues=1)
    RX packets:5 errors:0 dropped:0 overruns:0 frame:0
    TX packets:12 errors:0 dropped:0 aborted:0 carrier:0
    collisions:0
  port 2: mrdump12 (dpdk)
    RX packets:0 errors:0 dropped:0 overruns:0 frame:0
    TX packets:77 errors:0 dropped:0 aborted:0 carrier:0
"""


def pcap(order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    records = [
        struct.pack(order + "IIII", 7, part, 3, 60) + octets
        for part, octets in ((1, b"abc"), (2, b"def"))
    ]
    return head + b"".join(records)


@pytest.mark.parametrize(
    ("order", "magic", "unit"),
    [("<", 0xA1B2C3D4, 1000), (">", 0xA1B2C3D4, 1000), ("<", 0xA1B23C4D, 1)],
)
def test_a_file_of_either_byte_order_and_resolution(
    tmp_path: Path, order: str, magic: int, unit: int
) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap(order, magic) + b"cut off")
    first, second = packets(file)
    assert first == Packet(7_000_000_000 + unit, 60, b"abc")
    assert second.octets == b"def"


def test_the_first_packets_are_kept_whole(tmp_path: Path) -> None:
    file, kept = tmp_path / "a.pcap", tmp_path / "b.pcap"
    file.write_bytes(pcap() + struct.pack("<IIII", 7, 3, 90, 90) + b"cut")
    for count, expected in ((1, 1), (2, 2), (None, 2)):
        into = io.BytesIO()
        assert keep_first(file, into, count) == expected
        kept.write_bytes(into.getvalue())
        assert list(packets(kept)) == list(packets(file))[:expected]


@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        (b"", "begins with nothing"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "0a0d0d0a"),
        (pcap(link=113), "link type 113"),
        (pcap()[:24] + b"\xff" * 16, "damaged"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, octets: bytes, cause: str) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(octets)
    with pytest.raises(PcapError, match=cause):
        list(packets(file))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    written = [Packet(1_700_000_000_123_456_789, 90, b"abc"), Packet(5, 0, b"")]
    file.write_bytes(beginning() + b"".join(map(record, written)))
    assert list(packets(file)) == written


@pytest.mark.parametrize(
    ("status", "tpid", "tag"),
    [(0, 0x88A8, ""), (1 << 4, 0, "8100 2005"), (1 << 4 | 1 << 6, 0x88A8, "88a8 2005")],
)
def test_a_tag_that_the_kernel_keeps_beside_a_frame_is_put_back(
    status: int, tpid: int, tag: str
) -> None:
    frame = bytes(range(20))
    beside = struct.pack("=IIIHHHH", status, 20, 20, 0, 14, 0x2005, tpid)
    notes = [(1, 35, struct.pack("=qq", 7, 9)), (263, 8, beside)]
    whole = frame[:12] + bytes.fromhex(tag) + frame[12:]
    assert packet_of(frame, notes) == Packet(7_000_000_009, len(whole), whole)


def test_a_ports_packets_are_its_own() -> None:
    assert sent_packets(SHOWN, "mrdump1") == 12
    assert sent_packets(SHOWN, "mrdump12") == 77
    assert sent_packets(SHOWN, "mrdump2") == 0


def test_a_mark_is_of_one_process_and_not_of_a_later_one_with_its_number() -> None:
    assert alive(this_process())
    pid, _, started = this_process().partition(":")
    assert not alive(f"{pid}:{int(started) - 1}")
    for nobody in ("", "x", f"{os.getpid()}", "1:", "999999999:None"):
        assert not alive(nobody)
