"""The daemon's other half, in memory: what `controller.cni_host.Host` says, without OVS and OVN.

It stands in for `controller.node` at this one seam only, so that the CNI calls can be tested with
real links, a real socket and the real plugin, and with failures made to order. The system tests
run the same calls against the real daemon, OVS and OVN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from controller.attachments import AttachmentStore
from controller.cni_host import AttachError
from dataplane.model.addr import IPAddress, Mac, mac_of_address
from dataplane.model.config import TunnelType
from dataplane.model.state import Attachment, LogicalPort
from dataplane.plan.mtu import TooBig, too_big


def logical_port(name: str, octet: int = 5) -> LogicalPort:
    address = IPv4Address(f"10.0.0.{octet}")
    return LogicalPort(
        name=name,
        mac=mac_of_address(address),
        addresses=(IPv4Interface((address, 24)),),
        gateway=IPv4Address("10.0.0.1"),
        mtu=None,
        chassis=None,
    )


class MemoryHost:
    """Ports by name, records on disk, and the failures that a test asks for."""

    def __init__(self, statedir: Path, *ports: LogicalPort) -> None:
        self.store = AttachmentStore(statedir)
        self.ports = {port.name: port for port in ports}
        self.records = {(one.container_id, one.ifname): one for one in self.store.load_all()}
        self.rejected: str | None = None
        """OVS's words for every port, if it rejects them."""

        self.not_ready: str | None = None
        self.cut_off = False
        self.installs = True
        self.below: dict[str, int] = {}
        """MTU of the links below the tunnel."""

        self.waiting = asyncio.Event()
        """Set while a call waits for a port that is never installed."""

        self.calls: list[tuple[str, str]] = []
        self.attached_before_device: list[str] = []
        """Devices handed to OVS when the kernel did not have them."""

    def logical_port(self, name: str) -> LogicalPort | None:
        return self.ports.get(name)

    async def wait_logical_port(self, name: str, timeout: float) -> LogicalPort | None:
        try:
            async with asyncio.timeout(timeout):
                while name not in self.ports:  # noqa: ASYNC110 - a test adds to a dict
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return None
        return self.ports[name]

    async def placed(self, attachment: Attachment) -> Attachment:
        """Every container has a port of its own here."""
        return attachment

    async def attach(self, attachment: Attachment, link: Awaitable[object] | None = None) -> None:
        if link is not None:
            await link
        self.calls.append(("attach", attachment.device))
        names = Path("/proc/thread-self/net/dev").read_text(encoding="utf-8")
        if attachment.device.startswith("mrp") and attachment.device not in names:
            self.attached_before_device.append(attachment.device)
        await asyncio.sleep(0)
        self.records[attachment.container_id, attachment.ifname] = attachment
        self.store.put(attachment)
        if self.rejected is not None:
            raise AttachError(self.rejected)

    async def detach(self, container_id: str, ifname: str) -> None:
        await asyncio.sleep(0)
        found = self.records.pop((container_id, ifname), None)
        if found is not None:
            self.calls.append(("detach", found.device))
            self.store.delete(found.device)

    async def wait_installed(self, device: str, timeout: float) -> bool:
        if self.installs and any(one.device == device for one in self.records.values()):
            return True
        self.waiting.set()
        await asyncio.sleep(timeout)
        return False

    def attachment(self, container_id: str, ifname: str) -> Attachment | None:
        return self.records.get((container_id, ifname))

    def attachments(self) -> Sequence[Attachment]:
        return tuple(self.records.values())

    def unfit(self, name: str, ips: Sequence[IPAddress]) -> str | None:
        networks = [one.network for one in self.ports[name].addresses]
        outside = [ip for ip in ips if not any(ip in network for network in networks)]
        return f"{outside[0]} is outside of its subnet" if outside else None

    def too_big(self, name: str, mtu: int) -> TooBig | None:
        return too_big(mtu, self.below, TunnelType.GENEVE) if name in self.ports else None

    def limited(self) -> bool:
        return self.cut_off

    def ready(self) -> str | None:
        return self.not_ready


OTHER_MAC = Mac("0a:58:0a:00:00:63")
