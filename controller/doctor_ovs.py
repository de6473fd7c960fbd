"""The doctor's checks of OVS as it runs: its version, DPDK, the node's identity for OVN."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from controller.vswitchd import control_socket
from dataplane.drivers import processes
from dataplane.drivers.napithreads import NapiThreadsTable
from dataplane.drivers.ovsreports.pools import mempools
from dataplane.drivers.pmdtasks import switches_of_pmds
from dataplane.drivers.unixctl import UnixctlClient, UnixctlError
from dataplane.ports import ObserveError

if TYPE_CHECKING:
    from controller.doctor import Site

TIMEOUT_S = 10
OLDEST, NEWEST = (3, 1), (4, 0)
"""Versions of OVS whose settings and texts are known; tests/golden has samples."""

BUGGY_MLOCKALL = (3, 4)
"""Before, --mlockall kept postcopy migration from working (ovs-vswitchd.conf.db(5))."""

MEMPOOL_LOW = 0.1
IDENTITY = ("system-id", "ovn-remote", "ovn-encap-type", "ovn-encap-ip")


def get(site: Site, *words: str) -> str:
    """The answer of `ovs-vsctl get`, without quotes; empty for what is not there."""
    command = ["ovs-vsctl", f"--db={site.config.ovs_remote}", f"--timeout={TIMEOUT_S}"]
    answer = processes.run([*command, "--if-exists", "get", *words]).strip().strip('"')
    return "" if answer in {"[]", "{}"} else answer


def version(site: Site) -> Iterator[str]:
    """A version that we know."""
    client = _client(site)
    if client is None:
        return  # the check of OVS says so
    text = client.version()
    found = re.match(r"(\d+)\.(\d+)", text)
    if not found:
        yield f"ovs-vswitchd calls itself {text!r}"
        return
    number = (int(found[1]), int(found[2]))
    if number < OLDEST:
        yield f"OVS {text} is older than {_dotted(OLDEST)}: it lacks what the plan needs"
    elif number > NEWEST:
        yield f"OVS {text} is newer than {_dotted(NEWEST)}: its settings and texts are not known"
    vswitchd = site.vswitchd
    if vswitchd and "--mlockall" in vswitchd.arguments and number < BUGGY_MLOCKALL:
        yield f"--mlockall with OVS {text}: no postcopy migration of guests"


def dpdk(site: Site) -> Iterator[str]:
    """DPDK was initialised, and with what is configured now."""
    if get(site, "Open_vSwitch", ".", "dpdk_initialized") != "true":
        yield "ovs-vswitchd runs without DPDK, or not at all"
        return
    if get(site, "Open_vSwitch", ".", "other_config:dpdk-init") not in {"true", "try"}:
        yield "DPDK is in use, but other_config:dpdk-init is off: the next restart goes without it"


def pmds(site: Site) -> Iterator[str]:
    """PMD threads keep their cores, and are on those that the file names."""
    if site.vswitchd is None:
        return
    switches = switches_of_pmds(site.vswitchd.pid)
    wanted = set(site.config.dpdk.pmd)
    if switches and set(switches) != wanted:
        yield f"PMD threads on CPU {sorted(switches)}, where the file names {sorted(wanted)}"
    polled_on: set[int] = set()
    with contextlib.suppress(ObserveError):
        # There a thread that polls replies takes the core after each send: as planned.
        polled_on = {row.core for row in NapiThreadsTable().observe().values()}
    for cpu, count in sorted(switches.items()):
        if cpu in polled_on:
            continue
        if count.forced > 1000 and count.forced > 100 * max(count.voluntary, 1):
            yield f"the PMD thread on CPU {cpu} was thrown off it {count.forced} times"


def buffers(site: Site) -> Iterator[str]:
    """Packet buffers are left."""
    client = _client(site)
    if client is None:
        return
    try:
        pools = mempools(client.call("netdev-dpdk/get-mempool-info"))
    except UnixctlError:
        return  # no DPDK: the check of DPDK says so
    for pool in pools:
        if pool.available < MEMPOOL_LOW * pool.size:
            yield f"{pool.available} of {pool.size} buffers of {pool.name} are left"


def identity(site: Site) -> Iterator[str]:
    """What ovn-controller has to know of this node."""
    for key in IDENTITY:
        value = get(site, "Open_vSwitch", ".", f"external_ids:{key}")
        if not value:
            yield f"external_ids:{key} is not set"
        elif key == "system-id" and value != site.config.name:
            yield f"system-id is {value}, and the node's name is {site.config.name}"
    kind = get(site, "Open_vSwitch", ".", "external_ids:ovn-bridge-datapath-type")
    if kind != "netdev":
        yield f"ovn-bridge-datapath-type is {kind or 'not set'}: br-int would be the kernel's"


def _client(site: Site) -> UnixctlClient | None:
    if site.vswitchd is None:
        return None
    socket = control_socket(Path(site.config.ovs_rundir), site.vswitchd.pid)
    return UnixctlClient(str(socket), TIMEOUT_S)


def _dotted(number: tuple[int, int]) -> str:
    return f"{number[0]}.{number[1]}"
