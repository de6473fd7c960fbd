"""A node about to lose its vswitchd on purpose: no new attachments, and VIPs go to other nodes.

Whoever asks for it may die in between, so it is a lease: unless it is renewed, everything is as
before after a minute. A daemon that starts takes back what an earlier one has left.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cni.wire import RemoteError
from controller.completion import in_thread
from controller.server import Args, Handler
from controller.vswitchd import control_socket, running_pid
from dataplane.drivers import withdrawal
from dataplane.drivers.addresses import AddressesTable
from dataplane.drivers.ovstext import pmd_threads
from dataplane.drivers.unixctl import UnixctlClient
from dataplane.model.config import UplinkMode
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.state import PortKind
from dataplane.plan.ports import uplink_port_name
from dataplane.ports import DataplaneError

if TYPE_CHECKING:
    from controller.node import NodeDaemon

log = logging.getLogger(__name__)

LEASE_S = 60.0
CONNECT_S = 0.5
ANSWER_S = 0.5
"""For an answer of vswitchd [s]: one that just starts answers late, and is looked at again."""

LOOK_TIMEOUT_S = 2
CODE_BUSY = 111
"""Refusal of `drain`: somebody else does the same now."""


class Draining:
    """The lease of one daemon, and what there is to see of a restart."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._until = 0.0
        self._holder = ""
        self._expiry: asyncio.Task[None] | None = None

    def handlers(self) -> dict[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {"drain": self.drain, "resume": self.resume, "restart_look": self.look}

    def reason(self) -> str | None:
        """Why nothing may be attached now, in words; None: it may."""
        if time.monotonic() < self._until:
            return "an operator restarts ovs-vswitchd (`millrace restart-ovs`)"
        return None

    async def drain(self, args: Args) -> Args:
        """Take or renew the lease for `holder`; whether other nodes were told of the VIPs."""
        holder = str(args.get("holder") or "?")
        if self.reason() and holder != self._holder:
            msg = f"{self._holder} restarts ovs-vswitchd of this node already"
            raise RemoteError(CODE_BUSY, msg, "wait until it is done")
        told = False
        if self._daemon.config.services.announce:
            told = await in_thread(self._mark, True)
        self._holder, self._until = holder, time.monotonic() + LEASE_S
        if self._expiry is None or self._expiry.done():
            log.info("drain holder=%s withdrawn=%s", holder, told)
            self._expiry = asyncio.create_task(self._expire())
        return {"withdrawn": told, "lease_s": LEASE_S}

    async def resume(self, args: Args) -> Args:
        """Give the lease back."""
        if str(args.get("holder") or "?") == self._holder:
            self._until = 0.0
        await self._take_back()
        return {}

    async def take_back_left(self) -> None:
        """For the daemon's start: what an earlier daemon withdrew is answered for again."""
        while True:
            if self._daemon.ovs.connected:
                break
            await asyncio.sleep(CONNECT_S)
        if not self.reason():
            await self._take_back()

    async def _expire(self) -> None:
        while True:  # it may have been renewed, or given back, in the meantime
            left = self._until - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, 1.0))
        await self._take_back()

    async def _take_back(self) -> None:
        try:
            await in_thread(self._mark, False)
        except DataplaneError as error:
            log.warning("not_taken_back error=%s", error)

    def _mark(self, withdrawn: bool) -> bool:
        return withdrawal.mark(self._daemon.ovs, withdrawn=withdrawn)

    async def look(self, _: Args) -> Args:
        """What of the data plane works at this moment, asked where it cannot be stale."""
        return await in_thread(self._look)

    def _look(self) -> Args:
        daemon = self._daemon
        config, planned = daemon.config, daemon.planned
        rundir = Path(config.ovs_rundir)
        pid = running_pid(rundir / "ovs-vswitchd.pid")
        polled: list[str] = []
        if pid is not None:
            try:
                client = UnixctlClient(str(control_socket(rundir, pid)), ANSWER_S)
                threads = pmd_threads("", client.call("dpif-netdev/pmd-rxq-show"))
                polled = sorted({q.interface for one in threads for q in one.rxqs if q.enabled})
            except DataplaneError:
                pass  # it does not listen yet
        wanted = set(planned.addresses) if planned else set()
        try:
            addressed = wanted <= AddressesTable().observe().keys()
        except DataplaneError:
            addressed = False
        return {
            "pid": pid,
            "polled": polled,
            "uplinks": sorted(
                uplink_port_name(u) for u in config.nics if u.mode is not UplinkMode.KERNEL
            ),
            "vhost": sorted(
                a.device
                for a in daemon.attachments.values()
                if a.kind is PortKind.VHOST_USER and a.device in polled
            ),
            "addressed": addressed,
            "addresses": sorted(f"{device} {address}" for device, address in wanted),
            "flows": _flows(rundir) if pid is not None else 0,
            "announced": len(planned.announcements) if planned else 0,
            "converged": daemon.vswitchd.pid == pid
            and not daemon.vswitchd.recovering
            and daemon.converged(),
        }


def _flows(rundir: Path) -> int:
    """How many flows the integration bridge has; 0 while it does not answer."""
    target = f"unix:{rundir / INTEGRATION_BRIDGE}.mgmt"
    argv = ["ovs-ofctl", f"--timeout={LOOK_TIMEOUT_S}", "--protocols=OpenFlow15", "dump-aggregate"]
    try:
        done = subprocess.run(  # noqa: S603  # a list, and no shell
            [*argv, target], capture_output=True, text=True, check=False, timeout=LOOK_TIMEOUT_S + 1
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    count = done.stdout.rpartition("flow_count=")[2].strip()
    return int(count) if count.isdigit() else 0
