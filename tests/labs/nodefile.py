"""The lab nodes' TOML files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeFile:
    """What differs between the lab's nodes. `nb_rundir` is another node's, None: OVN is here.

    `services` are the lines of the file's table of that name, `ovn` more of that one, `mtu` the
    uplinks' own that is not Ethernet's usual one.
    """

    name: str
    uplinks: tuple[tuple[str, str, bool], ...]
    tunnel: str | None
    nb_rundir: Path | None = None
    hugepages: int = 1024
    socket_mem_mib: int = 512
    statedir: str | None = None
    mode: str = "af_xdp"
    services: str = ""
    ovn: str = ""
    mtu: int | None = None

    def text(self) -> str:
        """The file."""
        state = self.statedir or f"/var/lib/millrace/{self.name}"
        ovn = "embedded = true"
        if self.nb_rundir is not None:
            ovn = (
                f'embedded = false\nnb = "unix:{self.nb_rundir}/nb.sock"\n'
                f'sb = "unix:{self.nb_rundir}/sb.sock"'
            )
        parts = [
            f'[node]\nname = "{self.name}"\nstatedir = "{state}"\n',
            "[ovs]\nembedded = true\n",
            f"[ovn]\n{ovn}\n{self.ovn}\n",
            f'[hugepages]\nsize_kib = 2048\ncount = {self.hugepages}\nmount = "/dev/hugepages"\n',
            f"[dpdk]\nlcore = [0]\npmd = [1]\nsocket_mem_mib = {self.socket_mem_mib}\n"
            'extra = ["--no-pci"]\n',
            '[[bridge]]\nname = "br-ex"\nphysnet = "physnet1"\n',
            '[[bridge]]\nname = "br-phy"\n',
        ]
        for device, bridge, services in self.uplinks:
            parts.append(
                f'[[uplink]]\ndevice = "{device}"\nbridge = "{bridge}"\nmode = "{self.mode}"\n'
                f'queues = 1\nxdp_mode = "native"\nservices = {str(services).lower()}\n'
                + (f"mtu = {self.mtu}\n" if self.mtu is not None else "")
            )
        if self.tunnel is not None:
            parts.append(
                f'[tunnel]\ntype = "geneve"\nbridge = "br-phy"\naddress = "{self.tunnel}"\n'
            )
        if self.services:
            parts.append(f"[services]\n{self.services}\n")
        return "\n".join(parts)

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.text(), encoding="utf-8")


def cluster_text(
    nb_rundir: Path,
    gateways: dict[str, str],
    router: str,
    gateways6: dict[str, str] | None = None,
) -> str:
    """The cluster's file: `gateways` is chassis name to external address, `gateways6` to IPv6."""
    parts = [
        f'[cluster]\nnb = "unix:{nb_rundir}/nb.sock"\nsb = "unix:{nb_rundir}/sb.sock"\n'
        'join = "100.64.0.0/24"\nservice_pool = "100.64.255.0/24"\n'
    ]
    if gateways6:
        parts.append(
            'join6 = "fd00:100::/64"\nservice_pool6 = "fd00:101::/64"\n'
            'service_ranges = ["10.96.0.0/16", "fd96::/64"]\n'
        )
    for chassis, address in gateways.items():
        lines = [
            f'[[gateway]]\nchassis = "{chassis}"\nphysnet = "physnet1"',
            f'address = "{address}"\nrouters = ["{router}"]',
        ]
        if gateways6:
            lines.append(f'address6 = "{gateways6[chassis]}"')
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
