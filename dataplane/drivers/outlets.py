"""The table `outlets`: macvlans on uplinks; what OVS sends by them their egress hook reverses.

An AF_XDP socket hands its frames to the driver of its own device, past every hook of it; a macvlan
hands them on as any sender would, and so they meet the hook of the device below.

How we recognise our own after a restart: by ifalias. One is only made where today's program is at
the hook, and the node's entry says how it hands over: else frames would leave the node as OVS sent
them. The kernel removes a macvlan with
the device below it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pyroute2 import NetlinkError

from bpf import abi
from dataplane.drivers import xdphook
from dataplane.drivers.bpfmaps import number
from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.hostreplies import at_egress
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.libbpf_programs import Program
from dataplane.drivers.links import set_ipv6
from dataplane.drivers.programs import OVS_PROGRAM
from dataplane.drivers.rtnl import find_link, links, route_socket
from dataplane.model.names import LINK_ALIAS_PREFIX
from dataplane.model.rows import Cleared, Outlet, ProgramKind
from dataplane.ports import DataplaneError, Failure, ObserveError

ALIAS = f"{LINK_ALIAS_PREFIX}outlet"
_DOWN = -1
"""MTU of an observed outlet that is down: equal to no plan."""

_NOT_HERE = {
    errno.EOPNOTSUPP: "this kernel has no macvlan (CONFIG_MACVLAN)",
    errno.EBUSY: "the uplink is in a bridge or bond of the kernel's, or another macvlan has it",
}


class OutletsTable:
    """Table `outlets`: device -> Outlet; in the network namespace of the calling thread."""

    name = "outlets"

    def __init__(self, state: BpfState) -> None:
        self._state = state

    def observe(self) -> Mapping[str, Outlet]:
        """Macvlans of ours."""
        with route_socket() as ipr:
            found = links(ipr)
        names = {link.index: link.name for link in found}
        return {
            link.name: Outlet(
                names.get(link.peer_index, ""), link.mtu if link.up else _DOWN, link.queues
            )
            for link in found
            if link.alias == ALIAS and link.kind == "macvlan"
        }

    def upsert(self, batch: Sequence[tuple[str, Outlet]]) -> Mapping[str, Failure]:
        """Make them; one that is there and differs is made anew.

        What cannot be made here is not tried again for long: replies go by svc0 meanwhile.
        """
        failures: dict[str, Failure] = {}
        with route_socket() as ipr:
            for name, wanted in batch:
                failed = self._unready(wanted.parent)
                if failed is None:
                    failed = _make(ipr, name, wanted)
                if failed is not None:
                    failures[name] = failed
        return failures

    def _unready(self, parent: str) -> Failure | None:
        """Why nothing may be sent out of the uplink's hook yet."""
        try:
            info = at_egress(socket.if_nametoindex(parent))
        except (OSError, LibbpfError) as error:
            return Failure(f"{parent}: {error}", waiting=True)
        if info is None or self._state.kind_of(info) is not ProgramKind.HOST:
            reason = f"our program is not at the egress hook of {parent}: replies go by svc0"
            return Failure(reason, quarantine=True)
        entry = self._state.maps["node"].lookup(number(0))
        if not entry or not abi.NODE.unpack(entry)["svc_port_step"]:
            return Failure("svc0 is not in the node's entry yet", waiting=True)
        return None

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Remove them; one that is missing, or not ours, is success."""
        failures: dict[str, Failure] = {}
        with route_socket() as ipr:
            for name in keys:
                try:
                    _remove(ipr, name)
                except NetlinkError as error:
                    failures[name] = Failure(str(error))
        return failures


class ClearedTable:
    """Table `cleared`: device -> Cleared; in the network namespace of the calling thread."""

    name = "cleared"

    def observe(self) -> Mapping[str, Cleared]:
        """Outlets without a program at their XDP hook."""
        with route_socket() as ipr:
            ours = [link for link in links(ipr) if link.alias == ALIAS]
        try:
            return {link.name: Cleared() for link in ours if xdphook.attached(link.index) is None}
        except LibbpfError as error:
            raise ObserveError(str(error)) from error

    def upsert(self, batch: Sequence[tuple[str, Cleared]]) -> Mapping[str, Failure]:
        """Take OVS's program off; its socket goes on sending without."""
        return {name: failed for name, _ in batch if (failed := _clear(name))}

    def delete(self, keys: Sequence[str]) -> Mapping[str, Failure]:
        """Nothing: who has a socket there may attach its program again."""
        del keys
        return {}


def _clear(name: str) -> Failure | None:
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return Failure(f"there is no device {name} yet", waiting=True)
    try:
        held = xdphook.attached(index)
        if held is None:
            return None
        with Program.by_id(held.prog_id) as program:
            found = program.info().name
            if not found.startswith(OVS_PROGRAM):
                return Failure(f"{name} has another XDP program than OVS's, {found}: take it off")
            xdphook.detach(index, program, held.mode)
    except LibbpfError as error:
        return Failure(f"{name}: {error}", waiting=True)
    return None


def _make(ipr: Any, name: str, wanted: Outlet) -> Failure | None:
    try:
        parent, there = socket.if_nametoindex(wanted.parent), find_link(ipr, name)
        if there is not None:
            # Without an alias: made by one of ours that died over it.
            half_made = (there.kind, there.alias, there.peer_index) == ("macvlan", "", parent)
            if there.alias != ALIAS and not half_made:
                reason = (
                    f"{name} exists and is not ours (alias {there.alias!r}): rename or delete it"
                )
                return Failure(reason, quarantine=True)
            ipr.link("del", index=there.index)
        ipr.link(
            "add",
            ifname=name,
            kind="macvlan",
            link=parent,
            macvlan_mode="source",
            mtu=wanted.mtu,
            num_tx_queues=wanted.queues,
            num_rx_queues=wanted.queues,
        )
        made = find_link(ipr, name)
        if made is None:
            return Failure(f"{name} vanished while it was being made", waiting=True)
        ipr.link("set", index=made.index, ifalias=ALIAS)
        set_ipv6(name, on=False)
        ipr.link("set", index=made.index, state="up")
    except NetlinkError as error:
        why = _NOT_HERE.get(error.code)
        if why is None:
            return Failure(f"{name} cannot be made: {error}")
        return Failure(f"{name} cannot be made: {why}; replies go by svc0", quarantine=True)
    except (OSError, DataplaneError) as error:
        return Failure(f"{name} cannot be made: {error}", waiting=True)
    return None


def _remove(ipr: Any, name: str) -> None:
    link = find_link(ipr, name)
    if link is None or link.alias != ALIAS:
        return
    try:
        ipr.link("del", index=link.index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
