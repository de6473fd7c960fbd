"""The node's TOML file: which tables and keys it has, and what must agree with what."""

from __future__ import annotations

import re
from ipaddress import ip_address

from controller import config_values as values
from controller import iface_id
from controller.config_containers import containers_config
from controller.config_hosts import host_config
from controller.config_reader import TableReader, shown
from controller.config_services import services_config
from controller.config_tuning import tuning_pins
from controller.config_uplinks import LINK_NAME, LINK_RULE, known_bridge, uplinks_and_bonds
from controller.config_vhost import vhost_config
from dataplane.model.config import (
    BridgeConfig,
    DpdkConfig,
    HugepageConfig,
    NodeConfig,
    PlanWishes,
    TunnelConfig,
    TunnelType,
    UplinkMode,
)
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.plan.mtu import ETHERNET_MTU, port_mtu

MAX_CORE = 1023
_UNTUNNELLED = TunnelType.GENEVE
"""A node without a tunnel may get one later: its workloads leave room for OVN's usual one."""

SYSTEM_OVS_RUNDIR = "/run/openvswitch"
SOCKET_PATH_SIZE = 107
"""Bytes of a unix socket's path: sun_path holds 108 with its NUL (unix(7))."""

LONGEST_SOCKET = "/ovs-vswitchd.ctl"

HUGEPAGE_SIZES_KIB = (2048, 32768, 524288, 1048576)
"""What amd64 and arm64 kernels with 4 KiB pages have and DPDK takes."""

_SERVICE_LINK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,10}")
_WORD = re.compile(r"\S+")
_ANY = re.compile(r".*", re.DOTALL)


def node_config(root: TableReader) -> NodeConfig:
    """The configuration in a document; faults are in its notes, stand-ins in their places."""
    node = root.table("node")
    name, rundir = node_identity(node)
    statedir = values.node_directory(node, "statedir", "/var/lib", name)
    bpf_root = values.node_directory(node, "bpf_root", "/sys/fs/bpf", name)
    untunnelled = port_mtu(ETHERNET_MTU, _UNTUNNELLED)
    wanted_mtu = node.integer("port_mtu", 576, 9216, default=untunnelled)
    service_link = node.text(
        "service_link",
        default="svc0",
        example="svc0",
        pattern=_SERVICE_LINK,
        rule="it has up to 11 letters, digits, dots, dashes, underscores: the OVS end adds -ovs",
    )
    metrics = node.parsed(
        "metrics", _listen, "", default="127.0.0.1:9478", example="127.0.0.1:9478"
    )
    node.finish()

    ovs = root.table("ovs")
    embedded_ovs = _embedded(ovs, ("remote", "rundir"))
    ovs_rundir = values.path(ovs, "rundir", rundir if embedded_ovs else SYSTEM_OVS_RUNDIR)
    ovs_remote = values.remote(ovs, "remote", f"unix:{ovs_rundir}/db.sock")
    ovs.finish()
    ovn = root.table("ovn")
    embedded_ovn = _embedded(ovn, ("nb", "sb"))
    nb_remote = values.remote(ovn, "nb", f"unix:{rundir}/nb.sock" if embedded_ovn else None)
    sb_remote = values.remote(ovn, "sb", f"unix:{rundir}/sb.sock" if embedded_ovn else None)
    ovn_tls = values.tls(ovn)
    values.needs_tls(ovn, ovn_tls, "nb", "sb")
    template = _template(ovn)
    ovn.finish()
    bridges = _bridges(root)
    uplinks, bonds = uplinks_and_bonds(root, {bridge.name for bridge in bridges})
    nics = (*uplinks, *(member for bond in bonds for member in bond.members))
    hugepages = _hugepages(root)
    dpdk = _dpdk(root, hugepages, any(u.mode is UplinkMode.VFIO for u in nics))
    tunnel = _tunnel(root, {bridge.name for bridge in bridges})
    services = services_config(root)
    explicit = bool(dpdk.lcore and dpdk.pmd and dpdk.memory)
    tuning = dict(tuning_pins(root, explicit=explicit))
    wishes = tuning.pop("wishes")
    assert isinstance(wishes, PlanWishes)
    rebalance = str(tuning.pop("rebalance", "advise"))
    vhost = vhost_config(root)
    containers = containers_config(root)
    names = (*(b.name for b in bridges), *(u.device for u in nics), *(b.name for b in bonds))
    host = host_config(root, {*names, service_link, f"{service_link}-ovs"})
    for taken in names:
        if taken in (service_link, f"{service_link}-ovs"):
            node.fault(
                "service_link",
                f"node.service_link = {shown(service_link)}",
                f"{taken} is the name of a bridge, a bond or a NIC already",
                "choose another name",
            )
    return NodeConfig(
        name=name,
        rundir=rundir,
        statedir=statedir,
        bpf_root=bpf_root,
        metrics_listen=metrics,
        embedded_ovs=embedded_ovs,
        embedded_ovn=embedded_ovn,
        ovs_remote=ovs_remote,
        ovs_rundir=ovs_rundir,
        nb_remote=nb_remote,
        sb_remote=sb_remote,
        hugepages=hugepages,
        dpdk=dpdk,
        bridges=bridges,
        uplinks=uplinks,
        tunnel=tunnel,
        service_link=service_link,
        port_mtu=(
            wanted_mtu
            if node.has("port_mtu") or not tunnel
            else port_mtu(
                min(
                    (u.mtu or ETHERNET_MTU for u in nics if u.bridge == tunnel.bridge),
                    default=ETHERNET_MTU,
                ),
                tunnel.type,
            )
        ),
        services=services,
        tuning=tuning,
        rebalance=rebalance,
        vhost=vhost,
        bonds=bonds,
        wishes=wishes,
        containers=containers,
        host=host,
        iface_id=template,
        ovn_tls=ovn_tls,
    )


def _template(ovn: TableReader) -> str:
    """The names of logical ports where another CMS gave them; "": <pod>.<namespace>."""
    if not ovn.has("iface_id"):
        return ""
    text = ovn.text("iface_id", example="{namespace}_{pod}", pattern=_ANY, rule="")
    if ovn.sound("iface_id") and (why := iface_id.fault(text)):
        what = f"{ovn.name('iface_id')} = {shown(text)}"
        ovn.fault("iface_id", what, why, 'write iface_id = "{namespace}_{pod}", or leave it out')
    return text


def node_identity(node: TableReader) -> tuple[str, str]:
    """The node's name and its run directory: all that is needed to find its daemon."""
    name = values.node_name(node, "name")
    rundir = values.node_directory(node, "rundir", "/run", name)
    if len((rundir + LONGEST_SOCKET).encode()) > SOCKET_PATH_SIZE:
        node.fault(
            "rundir" if node.has("rundir") else "name",
            f"{node.name('rundir')} has {len(rundir)} characters",
            f"a unix socket below it, {LONGEST_SOCKET}, must end within {SOCKET_PATH_SIZE} bytes",
            f"choose one of at most {SOCKET_PATH_SIZE - len(LONGEST_SOCKET)}",
        )
    return name, rundir


def _listen(text: str) -> str:
    """A listening address as it was written; raises ValueError when it is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        msg = "it has to be ADDRESS:PORT with a port of 1..65535"
        raise ValueError(msg)
    address = ip_address(host.removeprefix("[").removesuffix("]"))
    if (address.version == 6) != (host.startswith("[") and host.endswith("]")):
        msg = "an IPv6 address, and no other, stands in brackets"
        raise ValueError(msg)
    return text


def _embedded(table: TableReader, keys: tuple[str, ...]) -> bool:
    """Whether `millrace up` makes the databases; `keys` are for those that somebody else makes."""
    embedded = table.boolean("embedded", default=True)
    for key in keys:
        if embedded and table.has(key):
            table.fault(
                key,
                f"{table.name(key)} is given",
                f"{table.name('embedded')} is true, so `millrace up` decides it itself",
                f"remove {key}, or write embedded = false",
            )
    return embedded


def _bridges(root: TableReader) -> tuple[BridgeConfig, ...]:
    found = []
    names: dict[str, int] = {}
    physnets: dict[str, int] = {}
    for table in root.tables("bridge"):
        name = table.text("name", example="br-ex", pattern=LINK_NAME, rule=LINK_RULE)
        if name == INTEGRATION_BRIDGE:
            table.fault(
                "name",
                f"{table.name('name')} = {shown(name)}",
                f"{INTEGRATION_BRIDGE} is OVN's own and always there",
                "remove this bridge, or choose another name",
            )
        values.unique(table, "name", name, names)
        physnet = None
        if table.has("physnet"):
            physnet = values.physnet(table, "physnet")
            values.unique(table, "physnet", physnet, physnets)
        table.finish()
        found.append(BridgeConfig(name, physnet))
    return tuple(found)


def _hugepages(root: TableReader) -> HugepageConfig | None:
    present = root.has("hugepages")
    table = root.table("hugepages")
    if not present:
        return None
    size_kib = table.integer("size_kib", 64, 1 << 24, default=2048)
    if size_kib not in HUGEPAGE_SIZES_KIB and table.sound("size_kib"):
        table.fault(
            "size_kib",
            f"{table.name('size_kib')} = {size_kib}",
            f"hugepages come in {', '.join(map(str, HUGEPAGE_SIZES_KIB))} KiB",
            "write size_kib = 2048",
        )
    count = table.integer("count", 1, 1 << 22)
    mount = values.path(table, "mount", "/dev/hugepages")
    table.finish()
    # Without a sound number there is nothing to compare the socket memory with.
    return HugepageConfig(size_kib, count, mount) if table.sound("count") else None


def _cores(table: TableReader, key: str, example: int) -> tuple[int, ...]:
    """Cores that a person fixed; none: the tuning plan decides."""
    cores = table.items(key, int, default=[], example=f"[{example}]")
    if not cores and table.sound(key):
        table.fault(
            key,
            f"{table.name(key)} has no core",
            "DPDK needs at least one",
            f"write {key} = [{example}], or leave it out: then it is computed",
        )
    found: list[int] = []
    for index, core in cores.items():
        if not 0 <= core <= MAX_CORE:
            why = f"core numbers go from 0 to {MAX_CORE}"
            table.fault_at(key, index, why, "name a core of this machine (`lscpu -e`)")
        elif core in found:
            table.fault_at(key, index, "it is there already", "name it once")
        else:
            found.append(core)
    return tuple(found)


def _dpdk(root: TableReader, hugepages: HugepageConfig | None, has_vfio: bool) -> DpdkConfig:
    table = root.table("dpdk")
    lcore, pmd = _cores(table, "lcore", 0), _cores(table, "pmd", 1)
    if both := sorted(set(lcore) & set(pmd)):
        table.fault(
            "pmd" if table.has("pmd") else "lcore",
            f"core {', '.join(map(str, both))} is in dpdk.lcore and in dpdk.pmd",
            "a PMD never sleeps, so OVS's main thread would starve there",
            "give the PMDs cores of their own",
        )
    memory = _memory(table)
    if hugepages and sum(memory) * 1024 > hugepages.count * hugepages.size_kib:
        table.fault(
            "socket_mem_mib",
            f"{table.name('socket_mem_mib')} = {' + '.join(map(str, memory))}",
            f"[hugepages] makes {hugepages.count * hugepages.size_kib // 1024} MiB only",
            "raise hugepages.count, or lower socket_mem_mib",
        )
    # Without --no-pci EAL probes every NIC of the machine, the one that carries ssh included.
    extra = table.items(
        "extra", str, default=[] if has_vfio else ["--no-pci"], example='["--no-pci"]'
    )
    for index, word in extra.items():
        if not _WORD.fullmatch(word):
            table.fault_at(
                "extra",
                index,
                "OVS joins the words with blanks, so none may be empty or hold one",
                "write each option and each value as a word of its own",
            )
    if has_vfio and "--no-pci" in extra.values():
        table.fault(
            "extra",
            f"{table.name('extra')} holds --no-pci",
            "an uplink of mode vfio is a PCI device, which DPDK would then not look for",
            "remove --no-pci",
        )
    table.finish()
    return DpdkConfig(lcore, pmd, memory[0], tuple(extra.values()), memory[1:])


def _memory(table: TableReader) -> tuple[int, ...]:
    """Memory by NUMA node; the first alone, where the file has one number. 0: computed."""
    key = "socket_mem_mib"
    if not table.has(key):
        return (0,)
    if not table.is_list(key):
        return (table.integer(key, 16, 1 << 20, default=512),)
    found = []
    for index, mib in table.items(key, int, example="[1024, 1024]").items():
        if not (mib == 0 or 16 <= mib <= 1 << 20):
            why = f"it has to be 0 or within 16..{1 << 20}"
            table.fault_at(key, index, why, "write what that NUMA node is to give")
        found.append(mib)
    if not any(found) and table.sound(key):
        why = "vswitchd would have no memory"
        table.fault(key, f"{table.name(key)} has none", why, f"write {key} = [1024, 1024]")
    return tuple(found) or (0,)


def _tunnel(root: TableReader, bridges: set[str]) -> TunnelConfig | None:
    present = root.has("tunnel")
    table = root.table("tunnel")
    if not present:
        return None
    config = TunnelConfig(
        table.choice("type", TunnelType, default=TunnelType.GENEVE),
        known_bridge(table, bridges),
        table.parsed("address", values.interface, values.SOME_INTERFACE, example="10.0.0.1/24"),
    )
    table.finish()
    return config
