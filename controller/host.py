"""The node daemon as the CNI calls see it (`controller.cni_host.Host`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from controller.cni_host import AttachError
from controller.completion import in_thread
from controller.iface_id import port_named
from controller.translate.hostports import balancers
from controller.translate.node import logical_port, unfit_addresses
from controller.upset import ATTACHED
from dataplane.drivers.idl import DatabaseTimeoutError
from dataplane.model.addr import IPAddress
from dataplane.model.devices import device_name
from dataplane.model.state import Attachment, LogicalPort, PortKind
from dataplane.plan.mtu import TooBig

if TYPE_CHECKING:
    from controller.node import NodeDaemon

PORT_KNOWN_S = 10.0
"""How long vswitchd may take to look at a new port [s]; an idle one takes milliseconds."""


class NodeHost:
    """Reads the daemon's sources, and changes its attachments."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon

    def logical_port(self, name: str) -> LogicalPort | None:
        """The port as OVN's databases have it now."""
        sources = self._daemon.sources
        view = sources.view(self._daemon.config)
        if view is None or sources.nb is None or sources.sb is None:
            return None
        found = port_named(view.index, name)
        return logical_port(sources.nb, sources.sb, found, view.index) if found else None

    async def wait_logical_port(self, name: str, timeout: float) -> LogicalPort | None:
        """The port, as soon as OVN has it; None after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    changed = self._daemon.sources_changed()
                    port = self.logical_port(name)
                    if port is not None:
                        return port
                    await changed.wait()
        except TimeoutError:
            return None

    async def attach(self, attachment: Attachment, link: Awaitable[object] | None = None) -> None:
        """Record it durably, and return when its OVS port is written. Again is success.

        Raises:
            AttachError: OVS rejected the port, or did not look at it in time.
            Exception: what `link` raises.
        """
        if link is not None:
            await self._begin(attachment, link)
        try:
            async with asyncio.TaskGroup() as group:
                # The record has to be there before the answer, not before the port: a daemon that
                # dies in between finds a port without a record, which is no port of its plan.
                group.create_task(in_thread(self._daemon.store.put, attachment))
                await self._attach(attachment)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _begin(self, attachment: Attachment, link: Awaitable[object]) -> None:
        """Await the link; OVN hears of a container on the trunk meanwhile, for it takes longer."""
        daemon, key = self._daemon, (attachment.container_id, attachment.ifname)
        if not attachment.tag or key in daemon.attachments:
            await link
            return
        # A plan has no end on the trunk for it until the link is there.
        daemon.linkless.add(attachment.device)
        try:
            daemon.attachments[key] = attachment
            daemon.nested.take(attachment.iface_id)
            daemon.reconciler.retry("nested", attachment.iface_id)
            self._ask(attachment.iface_id)
            daemon.containers.expect(attachment)
            await link
        finally:
            daemon.linkless.discard(attachment.device)

    async def _attach(self, attachment: Attachment) -> None:
        daemon = self._daemon
        before = daemon.attachments.get((attachment.container_id, attachment.ifname))
        daemon.attachments[attachment.container_id, attachment.ifname] = attachment
        if attachment.host_ports or (before is not None and before.host_ports):
            self._serve_host_ports()
        if attachment.tag:
            await self._attach_nested(attachment)
            return
        # An earlier refusal of a port of this name says nothing about this one.
        daemon.reconciler.retry("ports", attachment.device)
        await self._apply(attachment)
        status = daemon.reconciler.status("ports", attachment.device)
        if status is not None and status.quarantined:
            raise AttachError(status.reason)
        known = daemon.ovs.when_port_known(attachment.device, PORT_KNOWN_S)
        try:
            port = await asyncio.wrap_future(known)
        except DatabaseTimeoutError as error:
            why = f"; {status.reason}" if status is not None and status.reason else ""
            msg = f"{error}{why}"
            raise AttachError(msg) from error
        if port.rejected:
            raise AttachError(port.rejected)

    async def _attach_nested(self, attachment: Attachment) -> None:
        daemon = self._daemon
        daemon.nested.take(attachment.iface_id)
        daemon.reconciler.retry("nested", attachment.iface_id)
        daemon.reconciler.retry("trunk", attachment.device)
        await self._apply(attachment)
        if reason := daemon.containers.problem(attachment):
            raise AttachError(reason)

    async def _apply(self, attachment: Attachment) -> None:
        """Return when a round has written, or removed, this attachment's rows."""
        self._ask(attachment.device, attachment.iface_id)
        await self._daemon.loop.applied()

    def _ask(self, *keys: str) -> None:
        """Have these rows of attachments written by the next round, and that at once."""
        daemon = self._daemon
        daemon.rounds.touch(*keys)
        daemon.loop.invalidate(ATTACHED)
        daemon.loop.hurry()

    async def placed(self, attachment: Attachment) -> Attachment:
        """The attachment with its place, which is its own until `detach`.

        Raises:
            AttachError: the trunk is still being made.
        """
        try:
            return await self._daemon.containers.placed(attachment)
        except TimeoutError as error:
            msg = "the trunk for containers is still being made; see `millrace status`"
            raise AttachError(msg) from error

    async def detach(self, container_id: str, ifname: str) -> None:
        """Take the OVS port and the record away; nothing there is success."""
        daemon = self._daemon
        attachment = daemon.attachments.pop((container_id, ifname), None)
        if attachment is not None and attachment.host_ports:
            self._serve_host_ports()
        # Also without an attachment in memory: an earlier call may have failed on the disk.
        record = in_thread(
            daemon.store.delete, *(device_name(kind, container_id, ifname) for kind in PortKind)
        )
        if attachment is None:
            await record
        else:
            # In any order: rows without a record are in no plan of a daemon that starts then.
            await asyncio.gather(record, self._apply(attachment))
        daemon.containers.release(container_id, ifname)

    def _serve_host_ports(self) -> None:
        """Have the fast path serve the host ports of what is attached now."""
        self._daemon.sources.host_ports = balancers(self._daemon.attachments.values())
        self._daemon.loop.invalidate()

    async def wait_installed(self, device: str, timeout: float) -> bool:
        """Whether OVN has installed the port of this device within `timeout` seconds."""
        for attachment in self._daemon.attachments.values():
            if attachment.device == device and attachment.tag:
                if self._daemon.containers.problem(attachment):
                    return False
                return await self._daemon.containers.installed(attachment, timeout)
        try:
            installed = self._daemon.ovs.when_ovn_installed(device, timeout)
            return await asyncio.wrap_future(installed)
        except DatabaseTimeoutError:
            return False

    def attachment(self, container_id: str, ifname: str) -> Attachment | None:
        """The recorded attachment."""
        return self._daemon.attachments.get((container_id, ifname))

    def attachments(self) -> Sequence[Attachment]:
        """All recorded attachments."""
        return tuple(self._daemon.attachments.values())

    def unfit(self, name: str, ips: Sequence[IPAddress]) -> str | None:
        """Why a logical port can never have one of these addresses, in words; None: it can."""
        view = self._daemon.sources.view(self._daemon.config)
        return unfit_addresses(view.index, name, ips) if view is not None else None

    def too_big(self, name: str, mtu: int) -> TooBig | None:
        """The link that cannot carry packets of `mtu` from a logical port to other nodes."""
        return self._daemon.sources.too_big(self._daemon.config, name, mtu)

    def limited(self) -> bool:
        """Whether what is attached may be cut off now, too: its packets need a vswitchd."""
        daemon = self._daemon
        return daemon.ovs.connected and daemon.vswitchd.pid is None

    def ready(self) -> str | None:
        """None, or why no port can be attached now, in words."""
        daemon = self._daemon
        if reason := daemon.draining.reason():
            return reason
        if not daemon.ovs.connected:
            return f"not connected to the OVS database at {daemon.config.ovs_remote}"
        if daemon.vswitchd.pid is None:
            return f"ovs-vswitchd is not running (no live pid in {daemon.config.ovs_rundir})"
        for name, value, client in (
            ("northbound", daemon.sources.nb, daemon.nb),
            ("southbound", daemon.sources.sb, daemon.sb),
        ):
            if value is None:
                why = f": {client.problem}" if client.problem else ""
                return f"OVN's {name} database has not been in sync yet{why}"
        if "br-int" not in (daemon.ovs.latest.bridges if daemon.ovs.latest else ()):
            return "br-int does not exist yet"
        return None
