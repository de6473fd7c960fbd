"""Where the packets of `millrace perf peers` end, and how those that came there are counted."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

from dataplane.drivers import processes, xdphook
from dataplane.drivers.libbpf import XDP_FLAGS_DRV_MODE, Closing
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.netns import inside_named
from perf.peerlab import BACKEND_PORT, Trio
from perf.peerprogs import Source
from perf.peerxsk import Receiver

_IP_PKTINFO = 8
_NET_SNMP = Path("/proc/thread-self/net/snmp")


class End(Closing):
    """A sink. `arrived` counts from any moment on; `choose` comes before packets are sent to it."""

    def choose(self) -> None:
        """Make the source's programs lead here."""

    def arrived(self) -> int:
        """How many packets have come so far."""
        raise NotImplementedError

    def close(self) -> None:
        """Take it away."""


class Counted(End):
    """The source's own sink, right behind it: what the others' figures include of it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def arrived(self) -> int:
        """What the sink's program counted."""
        return self._source.counted()


class OnDevice(End):
    """An XDP program on the backend's device."""

    def __init__(self, source: Source, trio: Trio, program: Program) -> None:
        self._source, self._trio, self._program = source, trio, program
        self._ifindex = trio.ifindex("b0")
        inside_named(
            trio.backend, lambda: xdphook.attach(self._ifindex, program, XDP_FLAGS_DRV_MODE)
        )

    def arrived(self) -> int:
        """What the program counted, on all devices that have it."""
        return self._source.counted()

    def close(self) -> None:
        """Detach it."""
        inside_named(
            self._trio.backend,
            lambda: xdphook.detach(self._ifindex, self._program, XDP_FLAGS_DRV_MODE),
        )


class Socketed(End):
    """An AF_XDP socket: at the backend's device behind a program, or at the router's, for ours."""

    def __init__(self, source: Source, trio: Trio, device: str) -> None:
        space = trio.backend if device == "b0" else trio.router
        self._source, self._received = source, 0
        self.receiver = inside_named(space, lambda: Receiver(socket.if_nametoindex(device)))
        self._program: OnDevice | None = None
        if device == "b0":
            self._program = OnDevice(source, trio, source.to_xsk)

    def choose(self) -> None:
        """The program has one socket for all devices: this one from now on."""
        if self._program is not None:
            self._source.xsks.update(bytes(4), struct.pack("=I", self.receiver.fd))

    def arrived(self) -> int:
        """What the receiver has taken."""
        self._received += self.receiver.drain()
        return self._received

    def close(self) -> None:
        """First the program, then what it leads to."""
        if self._program is not None:
            self._program.close()
        self.receiver.close()


class Dropped(End):
    """The skb stack's first hook: a packet has become an skb, passed GRO, and ends."""

    def __init__(self, trio: Trio) -> None:
        self._trio = trio
        rules = (
            "add table netdev peers\nadd counter netdev peers came\n"
            "add chain netdev peers end { type filter hook ingress device b0 priority 0 ; }\n"
            "add rule netdev peers end counter name came drop\n"
        )
        processes.run(["nft", "-f", "-"], netns=trio.backend, text_in=rules)

    def arrived(self) -> int:
        """What the hook's counter says."""
        return counted(self._trio.backend, "netdev", "peers", "came")

    def close(self) -> None:
        """Remove the hook."""
        processes.run(["nft", "delete", "table", "netdev", "peers"], netns=self._trio.backend)


class Datagrams(End):
    """An ordinary UDP socket that nobody reads: a packet is looked up, and ends at its buffer.

    Its buffer is as small as the kernel allows, so it is full after a few packets; from then on
    each is counted as an error of the socket's.
    """

    def __init__(self, trio: Trio) -> None:
        self._trio = trio
        self._socket = inside_named(trio.backend, self._open)

    @staticmethod
    def _open() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        made.bind(("0.0.0.0", BACKEND_PORT))
        return made

    def first(self) -> tuple[bytes, str, str]:
        """One datagram, where it says it is from, and for whom: whole, and translated by whom?"""
        self._socket.settimeout(5)
        # Only now, for it costs each packet something.
        self._socket.setsockopt(socket.SOL_IP, _IP_PKTINFO, 1)
        body, ((_, _, info),), _, (sender, _) = self._socket.recvmsg(2048, socket.CMSG_SPACE(12))
        self._socket.setsockopt(socket.SOL_IP, _IP_PKTINFO, 0)
        return body, sender, socket.inet_ntoa(info[8:12])

    def arrived(self) -> int:
        """Datagrams that the full buffer refused."""
        return inside_named(self._trio.backend, _refused)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def counted(space: str, *counter: str) -> int:
    """Packets of a counter of nftables': its family, table and name, in that namespace."""
    words = ["nft", "-j", "list", "counter", *counter]
    listed = json.loads(processes.run(words, netns=space))["nftables"]
    return next(int(one["counter"]["packets"]) for one in listed if "counter" in one)


def _refused() -> int:
    names, values = (
        line.split() for line in _NET_SNMP.read_text().splitlines() if line.startswith("Udp:")
    )
    return int(values[names.index("RcvbufErrors")])
