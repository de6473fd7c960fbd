"""What the CNI calls need of the node daemon, and how long they wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataplane.model.addr import IPAddress
from dataplane.model.state import Attachment, LogicalPort
from dataplane.plan.mtu import TooBig


class AttachError(Exception):
    """OVS did not take a port; `reason` is its own words, as `millrace status` shows them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Host(Protocol):
    """What the CNI calls need of the node daemon (`controller.node`)."""

    def logical_port(self, name: str) -> LogicalPort | None:
        """The port as OVN's databases have it now."""
        ...

    async def wait_logical_port(self, name: str, timeout: float) -> LogicalPort | None:
        """The port, as soon as OVN has it; None after `timeout` seconds."""
        ...

    async def placed(self, attachment: Attachment) -> Attachment:
        """The attachment with its place on the node's trunk, if it is to be there.

        The place is its own until `detach`.

        Raises:
            AttachError: the trunk is still being made.
        """
        ...

    async def attach(self, attachment: Attachment, link: Awaitable[object] | None = None) -> None:
        """Record it durably, and return when its OVS port is written. Again is success.

        `link` is awaited before anything is written that needs the attachment's link. May be
        cancelled at any await; `detach` follows then.

        Raises:
            AttachError: OVS rejected the port; it is in quarantine.
            Exception: what `link` raises.
        """
        ...

    async def detach(self, container_id: str, ifname: str) -> None:
        """Take the OVS port away, then the record; nothing there is success.

        It is out of the desired state whatever is raised, so the reconciler goes on with it.
        """
        ...

    async def wait_installed(self, device: str, timeout: float) -> bool:
        """Whether ovn-controller says `ovn-installed` of the interface within `timeout` seconds."""
        ...

    def attachment(self, container_id: str, ifname: str) -> Attachment | None:
        """The recorded attachment."""
        ...

    def attachments(self) -> Sequence[Attachment]:
        """All recorded attachments."""
        ...

    def unfit(self, name: str, ips: Sequence[IPAddress]) -> str | None:
        """Why a logical port can never have one of these addresses, in words; None: it can."""
        ...

    def too_big(self, name: str, mtu: int) -> TooBig | None:
        """The link that cannot carry packets of `mtu` from a logical port to other nodes."""
        ...

    def limited(self) -> bool:
        """Whether what is attached may be cut off now, too (`ready` says why)."""
        ...

    def ready(self) -> str | None:
        """None, or why no port can be attached now, in words."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each wait of a call may last, in seconds; together less than the plugin's own."""

    logical_port: float = 5.0
    """The cluster controller may be behind the kubelet."""

    attach: float = 15.0
    installed: float = 20.0
    check: float = 2.0


DEFAULT_PATIENCE = Patience()
