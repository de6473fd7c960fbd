"""Where a node's containers are attached: on its one trunk, or each by an OVS port of its own.

The trunk is there once OVN has its logical port (the cluster controller makes it) and OVS has taken
its end. Tags are given out here. What is given is recorded with the attachment before anything uses
it, so a daemon that was killed finds it again; the next one begins behind the highest in use. A
container keeps what it has, whatever becomes of the file or of OVN.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from controller.ovn.sb import Place, when_claimed
from dataplane.drivers import flowprobe
from dataplane.drivers.idl import DatabaseTimeoutError
from dataplane.drivers.ovsinterfaces import InterfaceState
from dataplane.model.config import Attach
from dataplane.model.names import INTEGRATION_BRIDGE, TRUNK_KEY, TRUNK_LINK, TRUNK_PORT
from dataplane.model.state import Attachment, PortKind
from dataplane.plan.trunk import TRUNK_MTU, free_tag, tags, trunk_name
from dataplane.reconcile.status import State

if TYPE_CHECKING:
    from controller.node import NodeDaemon

log = logging.getLogger(__name__)

TRUNK_PATIENCE_S = 15.0
"""How long an ADD waits for a trunk that is being made [s]; an AF_XDP port takes 0.1 to 0.4."""

POLL_S = 0.003
"""Between two looks whether flows are in [s]."""

BROKEN_S = 0.1
"""Until vswitchd is asked again after it did not answer [s]."""

EXPECTED_S = 60.0
"""How long OVN is waited for before anybody asks [s]; more than a call lasts."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Trunk:
    """How the trunk is. Not `usable` and no `reason`: it is being made."""

    usable: bool
    reason: str = ""


class Containers:
    """Gives containers their places, and knows when OVN has taken one."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._given: dict[Key, int] = {}
        self._expected: dict[Key, asyncio.Task[bool]] = {}
        self._flows = flowprobe.FlowProbe(daemon.config.ovs_rundir, INTEGRATION_BRIDGE)
        self._last = max(tags(daemon.attachments.values()), default=0)

    def trunk(self) -> Trunk:
        """How the trunk is now."""
        daemon, config = self._daemon, self._daemon.config
        if config.containers.attach is not Attach.TRUNK:
            return Trunk(usable=False, reason='containers.attach = "port" in the node\'s file')
        name, view = trunk_name(config.name), daemon.sources.view(config)
        if view is None:
            return Trunk(usable=False)
        if name not in view.index.port_by_name:
            return Trunk(
                usable=False,
                reason=f"OVN has no logical port {name}: let the cluster controller make it "
                "(cluster.trunks), or add it to any switch by hand",
            )
        for table, key in (("links", TRUNK_LINK), ("ports", TRUNK_PORT), ("trunk", TRUNK_LINK)):
            status = daemon.reconciler.status(table, key)
            if status is not None and (status.quarantined or status.state is State.ERROR):
                return Trunk(usable=False, reason=f"{table} {key}: {status.reason}")
            if status is None or status.state is not State.DONE:
                return Trunk(usable=False)
        latest = daemon.ovs.latest
        port = latest.ports.get(TRUNK_PORT) if latest else None
        return Trunk(usable=port is not None and port.ovn_installed)

    async def placed(self, attachment: Attachment) -> Attachment:
        """The attachment with its place: a tag on the trunk, or none.

        Raises:
            TimeoutError: the trunk is still being made.
        """
        if attachment.kind is not PortKind.VETH or attachment.tag:
            return attachment
        trunk = await self._settled()
        reason = trunk.reason or self._unfit(attachment)
        if reason:
            log.info("container_has_own_port port=%s reason=%s", attachment.iface_id, reason)
            return attachment
        return replace(attachment, tag=self._tag_for(attachment))

    async def _settled(self) -> Trunk:
        async with asyncio.timeout(TRUNK_PATIENCE_S):
            while True:
                found = self.trunk()
                if found.usable or found.reason:
                    return found
                await asyncio.sleep(POLL_S * 10)

    def _unfit(self, attachment: Attachment) -> str:
        """Why a container cannot be on the trunk; "" if it can."""
        if attachment.mtu > TRUNK_MTU:
            return f"its MTU is {attachment.mtu}, the trunk carries {TRUNK_MTU}"
        view = self._daemon.sources.view(self._daemon.config)
        row = view.index.port_by_name.get(attachment.iface_id) if view else None
        if row is not None and row.type:
            return f"its logical port is of type {row.type}"
        if row is not None and row.parent_name and TRUNK_KEY not in row.external_ids:
            return f"its logical port is nested in {row.parent_name} by somebody else"
        return ""

    def _tag_for(self, attachment: Attachment) -> int:
        key = (attachment.container_id, attachment.ifname)
        if key not in self._given:
            taken = self._taken()
            tag = free_tag(taken, self._last)
            if tag is None:
                log.warning("trunk_full tags=%d", len(taken))
                return 0
            self._given[key] = self._last = tag
        return self._given[key]

    def _taken(self) -> frozenset[int]:
        daemon = self._daemon
        parent, view = trunk_name(daemon.config.name), daemon.sources.view(daemon.config)
        ports = view.index.port_by_name.values() if view else ()
        in_ovn = {port.tag for port in ports if port.parent_name == parent and port.tag}
        return tags(daemon.attachments.values()) | set(self._given.values()) | in_ovn

    def release(self, container_id: str, ifname: str) -> None:
        """Its tag may be given to another; the attachment's record is gone, or never was."""
        self._given.pop((container_id, ifname), None)
        if (expected := self._expected.pop((container_id, ifname), None)) is not None:
            expected.cancel()

    # -- waiting ------------------------------------------------------------------------------

    def expect(self, attachment: Attachment) -> None:
        """Begin to wait for OVN, which is being told of a nested port; `installed` says the end."""
        key = (attachment.container_id, attachment.ifname)
        wait = self._wait(attachment, EXPECTED_S)
        self._expected[key] = asyncio.get_running_loop().create_task(wait)

    async def installed(self, attachment: Attachment, timeout: float) -> bool:
        """Whether OVN has claimed a nested port, and its flows are in OVS, within `timeout` s."""
        expected = self._expected.pop((attachment.container_id, attachment.ifname), None)
        if expected is None:
            return await self._wait(attachment, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await expected
        except TimeoutError:
            return False

    async def _wait(self, attachment: Attachment, timeout: float) -> bool:
        daemon = self._daemon
        place = Place(trunk_name(daemon.config.name), attachment.tag, daemon.config.name)
        try:
            async with asyncio.timeout(timeout), self._flows.used():
                # Greeted before it is needed: vswitchd may be busy with these flows by then.
                with suppress(flowprobe.ProbeError):
                    await self._flows.connect()
                binding, number = await asyncio.wrap_future(
                    when_claimed(daemon.sb, attachment.iface_id, place, timeout)
                )
                cookie = flowprobe.cookie_of(binding.ref)
                while True:
                    if await self._has_flows(cookie, number):
                        return True
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, DatabaseTimeoutError):
            return False

    async def _has_flows(self, cookie: int, number: int | None) -> bool:
        """Whether a port's flows are in, and the pipeline of its switch."""
        try:
            if not flowprobe.is_installed(await self._flows.tables_with(cookie)):
                return False
            # A switch that is new here brings its whole pipeline along, in its own time.
            return number is None or await self._flows.has_datapath(number)
        except flowprobe.ProbeError as error:
            # vswitchd may be starting; it is asked again for as long as the call waits.
            log.warning("flows_not_asked error=%s", error)
            await asyncio.sleep(BROKEN_S)
            return False

    # -- what is said of it -------------------------------------------------------------------

    def view(self) -> dict[str, object]:
        """For `millrace status`."""
        trunk = self.trunk()
        now = "trunk" if trunk.usable else "port" if trunk.reason else "waiting"
        on_it = len(tags(self._daemon.attachments.values()))
        return {
            "attach": self._daemon.config.containers.attach.value,
            "now": now,
            "reason": trunk.reason,
            "on_trunk": on_it,
        }

    def interfaces(self) -> dict[str, InterfaceState]:
        """Containers on the trunk as if each had an interface of OVS: by device.

        Counts are from OVS's side: `rx` is what the container sent.

        Raises:
            LibbpfError: the kernel refused.
        """
        found: dict[str, InterfaceState] = {}
        for one in tuple(self._daemon.attachments.values()):
            traffic = self._daemon.trunk.traffic(one.tag) if one.tag else None
            if traffic is not None:
                found[one.device] = InterfaceState(
                    name=one.device,
                    bridge=INTEGRATION_BRIDGE,
                    type="trunk",
                    ofport=None,
                    error=self.problem(one),
                    link_state="up",
                    admin_state="up",
                    mtu=one.mtu,
                    statistics={
                        "rx_packets": traffic.sent.packets,
                        "rx_bytes": traffic.sent.octets,
                        "tx_packets": traffic.received.packets,
                        "tx_bytes": traffic.received.octets,
                    },
                    status={},
                    external_ids={"iface-id": one.iface_id},
                    port=TRUNK_PORT,
                )
        return found

    def state(self, attachment: Attachment) -> tuple[str, str]:
        """done, pending or error, and the reason, of a container on the trunk."""
        if reason := self.problem(attachment):
            return "pending", reason
        sb = self._daemon.sources.sb
        row = sb.port_bindings.get(attachment.iface_id) if sb else None
        if row is None or not row.up:
            return "pending", "ovn-controller has not claimed it yet"
        return "done", ""

    def problem(self, attachment: Attachment) -> str:
        """Why a container's place on the trunk is not as planned; "" if it is."""
        reconciler = self._daemon.reconciler
        for table, key in (("trunk", attachment.device), ("nested", attachment.iface_id)):
            status = reconciler.status(table, key)
            if status is not None and status.state is not State.DONE:
                return status.reason or f"{table} {key} is {status.state.value}"
        return ""
