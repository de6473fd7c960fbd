"""What the kernel's sockets were made of by connect-time translation."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.model.addr import L4Addr


@dataclass(frozen=True, slots=True)
class SocketPeer:
    """A connected socket's peer: what its process asked for, what it got, and of which service."""

    vip: L4Addr
    backend: L4Addr
    service_id: int
