"""What `millrace perf peers` does to the kernel's table of flows in a router's namespace.

Source: uapi linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h.
"""

from __future__ import annotations

import socket
import struct

from dataplane.drivers import netlink

_NETFILTER = 12
_NEW, _GET, _DELETE = (1 << 8 | kind for kind in (0, 1, 2))
"""NFNL_SUBSYS_CTNETLINK with IPCTNL_MSG_CT_NEW, _GET and _DELETE."""

_ANY, _IPV4 = struct.pack("=BBH", 0, 0, 0), struct.pack("=BBH", socket.AF_INET, 0, 0)
_ORIGINAL, _STATUS, _NESTED = 1, 3, 1 << 15
_ANSWERED = 1 << 1 | 1 << 2
"""IPS_SEEN_REPLY and IPS_ASSURED."""


def forget() -> None:
    """Empty the table of the calling thread's namespace.

    Raises:
        OSError: the kernel refused.
    """
    with _opened() as asked:
        _ask(asked, _DELETE, netlink.ACK, _ANY)


def answer_all() -> int:
    """Every flow has had an answer: to the kernel it is new until then; how many there are.

    Raises:
        OSError: the kernel refused.
    """
    with _opened() as asked:
        flows = _ask(asked, _GET, netlink.DUMP, _IPV4)
        for flow in flows:
            told = netlink.attributes(flow, len(_IPV4))
            status = struct.unpack("!I", told[_STATUS])[0] | _ANSWERED
            wanted = netlink.attribute(_NESTED | _ORIGINAL, told[_ORIGINAL])
            wanted += netlink.attribute(_STATUS, struct.pack("!I", status))
            _ask(asked, _NEW, netlink.ACK, _IPV4 + wanted)
        return len(flows)


def _opened() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    made.bind((0, 0))
    return made


def _ask(asked: socket.socket, kind: int, flags: int, body: bytes) -> list[bytes]:
    asked.send(netlink.message(kind, flags, 1, body))
    return netlink.answer(asked, 1)[0]
