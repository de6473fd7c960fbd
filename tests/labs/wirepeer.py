"""Hosts on a wire, out of raw frames: `wirepeer.py LOG DEVICE ADDRESS[@VLAN] ...`

Each ADDRESS answers ARP and echo requests that come with its VLAN's tag (without one: with none),
on the device that they came by. Every ARP and IPv4 frame that comes is a line of LOG: device, tag
or 0, type. The kernel of the test machines has no VLAN devices, so nobody else could be in a VLAN
here. Standard library only.
"""

from __future__ import annotations

import select
import socket
import struct
import sys

ETH_P_ALL, ETH_P_ARP, ETH_P_IP, ETH_P_8021Q = 0x0003, 0x0806, 0x0800, 0x8100
SOL_PACKET, PACKET_AUXDATA = 263, 8
VLAN_VALID = 0x10
AUXDATA = struct.Struct("=IIIHHHH")
"""struct tpacket_auxdata (linux/if_packet.h): status first, the tag sixth."""

OUTGOING = 4
MAC = bytes.fromhex("02000000ff01")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    total += data[-1] << 8 if len(data) & 1 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(frame: bytes, address: bytes) -> bytes:
    """The answer's payload and type to an untagged frame; empty if there is none."""
    kind = int.from_bytes(frame[12:14], "big")
    body = frame[14:]
    if kind == ETH_P_ARP and body[6:8] == b"\0\1" and body[24:28] == address:
        return frame[12:14] + body[:6] + b"\0\2" + MAC + address + body[8:18]
    head = (body[0] & 15) * 4 if body else 0
    if kind == ETH_P_IP and body[16:20] == address and body[9] == 1 and body[head] == 8:
        length = int.from_bytes(body[2:4], "big")
        icmp = bytearray(body[head:length])
        icmp[0], icmp[2:4] = 0, b"\0\0"
        icmp[2:4] = checksum(bytes(icmp)).to_bytes(2, "big")
        ip = bytearray(body[:head])
        ip[12:16], ip[16:20], ip[10:12] = body[16:20], body[12:16], b"\0\0"
        ip[10:12] = checksum(bytes(ip)).to_bytes(2, "big")
        return frame[12:14] + bytes(ip) + bytes(icmp)
    return b""


def receive(sock: socket.socket) -> tuple[bytes, int] | None:
    """An ingress frame without its tag, and the tag (0: none)."""
    frame, extra, _, source = sock.recvmsg(65536, 256)
    if source[2] == OUTGOING:
        return None
    tag = 0
    for level, kind, data in extra:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            found = AUXDATA.unpack(data[: AUXDATA.size])
            tag = found[5] & 0xFFF if found[0] & VLAN_VALID else 0
    if frame[12:14] == ETH_P_8021Q.to_bytes(2, "big"):
        tag = int.from_bytes(frame[14:16], "big") & 0xFFF
        frame = frame[:12] + frame[16:]
    return frame, tag


def main(log_path: str, *words: str) -> None:
    """Answer until killed."""
    devices = [word for word in words if not word[0].isdigit()]
    hosts = [word.partition("@")[::2] for word in words if word[0].isdigit()]
    answering = [(socket.inet_aton(address), int(tag or 0)) for address, tag in hosts]
    sockets = {}
    for device in devices:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.bind((device, ETH_P_ALL))
        sockets[sock] = device
    with open(log_path, "a", buffering=1, encoding="ascii") as log:  # noqa: PTH123 - no imports
        while True:
            for sock in select.select(list(sockets), [], [])[0]:
                try:
                    got = receive(sock)
                except OSError:
                    continue  # the device is down
                if got is None:
                    continue
                frame, tag = got
                kind = frame[12:14].hex()
                if kind in ("0806", "0800"):
                    log.write(f"{sockets[sock]} {tag} {kind}\n")
                for address, vlan in answering:
                    reply = answer(frame, address) if tag == vlan else b""
                    if reply:
                        label = struct.pack("!HH", ETH_P_8021Q, tag) if tag else b""
                        sock.send(frame[6:12] + MAC + label + reply)


if __name__ == "__main__":
    main(*sys.argv[1:])
