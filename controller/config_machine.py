"""Whether a machine has what a valid configuration asks for. Pure: the facts are handed in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from controller.config import ConfigProblem, Source
from controller.config_reader import dotted
from controller.toml_lines import Path
from dataplane.model.config import NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.machine import MachineFacts
from dataplane.plan.mtu import AF_XDP_MTU, overhead, too_big_for_tunnel


def check_machine(source: Source[NodeConfig], facts: MachineFacts) -> list[ConfigProblem]:
    """Everything that the configuration asks for and the machine has not, by line."""
    return sorted(
        [
            *_cores(source, facts),
            *_hugepages(source, facts),
            *_uplinks(source, facts),
            *_tunnel(source, facts),
        ]
    )


def _cores(source: Source[NodeConfig], facts: MachineFacts) -> list[ConfigProblem]:
    dpdk = source.config.dpdk
    online = _ranges(facts.cpus)
    return [
        source.problem(
            ("dpdk", key, index),
            f"dpdk.{key} names core {core}",
            f"this machine has no such core online; it has {online}",
            f"name one of {online}",
        )
        for key, cores in (("lcore", dpdk.lcore), ("pmd", dpdk.pmd))
        for index, core in enumerate(cores)
        if core not in facts.cpus
    ]


def _ranges(cpus: frozenset[int]) -> str:
    """CPU numbers as the kernel writes them: 0-3,8."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1] = [parts[-1][0], cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def _hugepages(source: Source[NodeConfig], facts: MachineFacts) -> list[ConfigProblem]:
    wanted = source.config.hugepages
    if wanted is None:
        return []
    pool = facts.hugepages.get(wanted.size_kib)
    if pool is None:
        sizes = ", ".join(map(str, sorted(facts.hugepages))) or "none"
        return [
            source.problem(
                ("hugepages", "size_kib"),
                f"hugepages.size_kib = {wanted.size_kib}",
                f"this kernel has no such pages; sizes it has [KiB]: {sizes}",
                "name one of these sizes",
            )
        ]
    more_kib = (wanted.count - pool.total) * wanted.size_kib
    if more_kib <= facts.available_kib:
        return []
    fitting = pool.total + facts.available_kib // wanted.size_kib
    return [
        source.problem(
            ("hugepages", "count"),
            f"hugepages.count = {wanted.count} pages of {wanted.size_kib} KiB,"
            f" {wanted.count * wanted.size_kib // 1024} MiB in all",
            f"the machine has {facts.memory_kib // 1024} MiB of memory,"
            f" {facts.available_kib // 1024} MiB of it available",
            f"write at most count = {fitting}",
        )
    ]


def _nics(config: NodeConfig) -> Iterator[tuple[Path, UplinkConfig]]:
    """Every NIC with the place in the file where its device is named."""
    for index, uplink in enumerate(config.uplinks):
        yield ("uplink", index, "device"), uplink
    for index, bond in enumerate(config.bonds):
        for number, member in enumerate(bond.members):
            yield ("bond", index, "devices", number), member


def _same_nic(config: NodeConfig, facts: MachineFacts, address: str) -> tuple[str, str] | None:
    """Where else in the file the NIC at a PCI address stands, by its name."""
    for path, uplink in _nics(config):
        nic = facts.nics.get(uplink.device)
        if uplink.mode is not UplinkMode.VFIO and nic is not None and nic.pci == address:
            return dotted(path), uplink.device
    return None


def _uplinks(source: Source[NodeConfig], facts: MachineFacts) -> list[ConfigProblem]:
    problems = []
    for path, uplink in _nics(source.config):
        table, what = path[:2], f'{dotted(path)} = "{uplink.device}"'
        if uplink.mode is UplinkMode.VFIO:
            if uplink.device not in facts.pci_devices:
                problems.append(
                    source.problem(
                        path,
                        what,
                        "this machine has no such PCI device",
                        "look for the NIC's address with `millrace nics`",
                    )
                )
            elif (other := _same_nic(source.config, facts, uplink.device)) is not None:
                problems.append(
                    source.problem(
                        path,
                        what,
                        f"it is the NIC {other[1]} of {other[0]}: two ports on its queues",
                        "name a NIC once, by its name or by its address",
                    )
                )
            continue
        nic = facts.nics.get(uplink.device)
        if nic is None:
            others = sorted(set(facts.nics) - {"lo"})
            near = difflib.get_close_matches(uplink.device, others, n=1)
            problems.append(
                source.problem(
                    path,
                    what,
                    f"there is no such network device here; there are: {', '.join(others) or '-'}",
                    f"did you mean {near[0]}?" if near else "name one of these (`ip link`)",
                )
            )
        elif nic.master:
            problems.append(
                source.problem(
                    path,
                    what,
                    f"{nic.master} has it: what comes in goes there, and not to OVS",
                    f"`ip link set {uplink.device} nomaster`, or name another NIC",
                )
            )
        elif uplink.mode is UplinkMode.AF_XDP and uplink.queues > nic.rx_queues:
            problems.append(
                source.problem(
                    (*table, "queues"),
                    f"{dotted((*table, 'queues'))} = {uplink.queues}",
                    f"{uplink.device} has {nic.rx_queues} receive queues",
                    f"write at most queues = {nic.rx_queues}",
                )
            )
        elif uplink.mode is UplinkMode.AF_XDP and uplink.mtu is None and nic.mtu > AF_XDP_MTU:
            problems.append(
                source.problem(
                    path,
                    what,
                    f"it has an MTU of {nic.mtu}, and an AF_XDP frame has to fit one page:"
                    f" {AF_XDP_MTU} at most",
                    f"write mtu = {AF_XDP_MTU} or less beside it, or use another mode",
                )
            )
    return problems


def _tunnel(source: Source[NodeConfig], facts: MachineFacts) -> list[ConfigProblem]:
    config = source.config
    if config.tunnel is None:
        return []
    kind = config.tunnel.type
    kernel = {device: nic.mtu for device, nic in facts.nics.items()}
    found = too_big_for_tunnel(config, kernel, config.port_mtu)
    if found is None:
        return []
    return [
        source.problem(
            ("node", "port_mtu"),
            f"node.port_mtu = {config.port_mtu}",
            f"{found.device}, below the tunnel, has an MTU of {found.device_mtu}, of which"
            f" {kind.value} takes {overhead(kind)}",
            f"write at most port_mtu = {found.most}, or give {found.device} an MTU of"
            f" {config.port_mtu + overhead(kind)}",
        )
    ]
