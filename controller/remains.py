"""What is left in the kernel of a node whose processes are gone: links, mounts, programs, pins."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from controller import node_dirs
from controller.vhost_pods import PodMounts
from dataplane.drivers import (
    bpfstate,
    hostreplies,
    netns,
    nicsettings,
    offloads,
    processes,
    programs,
    routes,
)
from dataplane.drivers.machinefacts import filesystem_of
from dataplane.model.config import NodeConfig, UplinkMode
from dataplane.model.names import LINK_ALIAS_PREFIX
from dataplane.ports import DataplaneError


def remove(config: NodeConfig, namespace: str | None) -> Iterator[str]:
    """Remove it; what was done and what was left, in words."""
    # A pod's volume would keep the directory alive that is removed below the run directory.
    yield from PodMounts(Path(config.vhost.kubelet)).withdraw_all(Path(config.rundir) / "vhost")
    there = is_known = netns.is_there(namespace)
    if there:
        yield from _remove_links(namespace)
        # Routes by links of ours went with these; those by uplinks, and rules, stay without.
        yield from netns.inside_named(namespace, _remove_routing)
    root = Path(config.bpf_root)
    counters: Collection[int] = ()
    if root.is_dir():
        kind = filesystem_of(root)
        if kind == "bpf":
            try:
                counters = bpfstate.counters_ids(str(root))
            except DataplaneError as error:
                # Whose the programs are cannot be told then, and theirs must stay.
                yield f"left XDP programs on uplinks as they are: {error}"
                is_known = False
            # Before the programs: a link that is pinned here cannot be taken off by netlink.
            bpfstate.remove_pins(str(root))
            yield f"removed pins under {root}"
            node_dirs.remove_empty_parent(root)
        else:
            yield f"left {root}: it is on {kind}, not on a BPF filesystem, so it holds no pins"
    if there and is_known:
        devices = [u.device for u in config.nics if u.mode is not UplinkMode.VFIO]
        yield from netns.inside_named(namespace, lambda: _take_programs_off(devices, counters))
    if there:
        # After the programs: with one attached a NIC takes no MTU beyond a page.
        yield from netns.inside_named(namespace, lambda: _restore_nics(Path(config.rundir)))


def _remove_links(namespace: str | None) -> Iterator[str]:
    """Veth pairs of ours, recognised by their alias."""
    listed = json.loads(
        processes.run(["ip", "-j", "-d", "link", "show"], netns=namespace, check=False) or "[]"
    )
    for link in listed:
        name = str(link.get("ifname", ""))
        if str(link.get("ifalias", "")).startswith(LINK_ALIAS_PREFIX):
            processes.run(["ip", "link", "del", name], netns=namespace, check=False)
            yield f"removed link {name}"


def _remove_routing() -> list[str]:
    """Our rules of routing, and routes that are left; what was done, in words."""
    table, ways = routes.RulesTable(), routes.RoutesTable()
    try:
        sources = list(table.observe())
        failures = table.delete(sources)
        ways.delete(list(ways.observe()))
    except DataplaneError as error:
        return [f"left routes and rules of routing as they are: {error}"]
    said = [f"removed the rule for what is sent from {one}" for one in sources]
    return said + [f"left the rule for {one}: {why.reason}" for one, why in failures.items()]


def _restore_nics(rundir: Path) -> list[str]:
    """Uplinks' MTU, queues and offloads as they were before; what could not be, in words."""
    said = []
    for table in (
        nicsettings.NicsTable(rundir / nicsettings.RECORD),
        offloads.OffloadsTable(rundir / offloads.RECORD),
    ):
        try:
            failures = table.delete(list(table.held()))
        except DataplaneError as error:
            said.append(f"left uplinks' {table.name} as they are: {error}")
            continue
        said += [f"left {device}'s {table.name}: {one.reason}" for device, one in failures.items()]
    return said


def _take_programs_off(devices: Collection[str], counters: Collection[int]) -> list[str]:
    """Programs on uplinks' hooks, ours and OVS's; what was left alone, in words."""
    said = []
    for device in devices:
        try:
            # What another has at that place of the egress hook is none of a node's.
            hostreplies.take_off(device, counters)
            left = programs.take_off(device, counters)
        except DataplaneError as error:
            said.append(f"left what is on the hooks of {device}: {error}")
            continue
        if left is not None:
            said.append(
                f"left XDP program {left} on {device}: neither this node nor its OVS attached it; "
                f"`ip link set dev {device} xdp off` takes it off"
            )
    return said
