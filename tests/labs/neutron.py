"""Northbound rows as OpenStack Neutron's ML2/OVN driver writes them, and hand-made ones.

Source: neutron 2023.1, neutron/plugins/ml2/drivers/ovn and neutron/common/ovn (names and
external_ids of rows: common/ovn/constants.py and utils.py; security groups: common/ovn/acl.py).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface

from dataplane.drivers import processes
from dataplane.model.names import KUBERNETES_OWNER, OWNER
from tests.labs.logical import nbctl

_OURS = {("owner", owner) for owner in (OWNER, KUBERNETES_OWNER)}
_SPACE = uuid.UUID("7f9c3d4e-0000-4000-8000-000000000000")


def known_as(name: str) -> str:
    """The UUID that this cloud has for something."""
    return str(uuid.uuid5(_SPACE, name))


@dataclass(frozen=True, slots=True)
class NeutronPort:
    """A port of an instance. `called`: what the user named it; `group`: its security group."""

    called: str
    address: str
    group: str

    @property
    def name(self) -> str:
        """The logical switch port's: Neutron's UUID of it."""
        return known_as(f"port {self.called}")

    @property
    def mac(self) -> str:
        """From Neutron's own range."""
        return "fa:16:3e:00:00:" + f"{int(self.address.rpartition('.')[2]):02x}"


@dataclass(frozen=True, slots=True)
class Cloud:
    """A project's network behind a router, whose other side is a provider network.

    `floating` is the address outside of one of the ports; `host` is the compute node's name.
    """

    host: str
    inside: IPv4Interface
    outside: IPv4Interface
    next_hop: str
    physnet: str
    ports: tuple[NeutronPort, ...]
    floating: Mapping[str, str]
    mtu: int = 1442

    @property
    def network(self) -> str:
        """The project's switch."""
        return f"neutron-{known_as('private')}"

    @property
    def router(self) -> str:
        """The project's router."""
        return f"neutron-{known_as('router')}"

    def declare(self, nb: str) -> None:
        """Write all rows; the database must not have them yet."""
        words: list[str] = []
        for step in (*self._groups(), *self._networks(), *self._router(), *self._instances()):
            words += ["--", *step]
        nbctl(nb, *words[1:])

    # -- security groups ---------------------------------------------------------------------------

    def group(self, name: str) -> str:
        """The port group of a security group."""
        return "pg_" + known_as(f"group {name}").replace("-", "_")

    def _groups(self) -> list[list[str]]:
        steps = [["pg-add", "neutron_pg_drop"]]
        for way, side in (("from-lport", "inport"), ("to-lport", "outport")):
            match = f"{side} == @neutron_pg_drop && ip"
            steps.append(["--type=port-group", "acl-add", "neutron_pg_drop", way, "1001", match,
                          "drop"])  # fmt: skip
        for name in sorted({port.group for port in self.ports}):
            group = self.group(name)
            security = f"external_ids:neutron\\:security_group_id={known_as(f'group {name}')}"
            steps.append(["pg-add", group])
            steps.append(["set", "Port_Group", group, security])
            out = f"inport == @{group} && ip4"
            steps.append(_rule(group, "from-lport", out))
            if name == "default":
                # Who is in the group may come in, which is Neutron's own rule of it, and pings may.
                among = f"outport == @{group} && ip4 && ip4.src == ${group}_ip4"
                steps.append(_rule(group, "to-lport", among))
                steps.append(_rule(group, "to-lport", f"outport == @{group} && ip4 && icmp4"))
        return steps

    # -- networks and the router -------------------------------------------------------------------

    def _networks(self) -> list[list[str]]:
        external = f"neutron-{known_as('public')}"
        steps = []
        for name, called, mtu in (
            (self.network, "private", self.mtu),
            (external, "public", 1500),
        ):
            steps += [
                ["ls-add", name],
                ["set", "Logical_Switch", name,
                 *_ids(network_name=called, mtu=str(mtu), revision_number="2",
                       availability_zone_hints=""),
                 "other_config:mcast_snoop=false", "other_config:mcast_flood_unregistered=false",
                 "other_config:vlan-passthru=false"],
            ]  # fmt: skip
        provnet = f"provnet-{known_as('segment')}"
        steps += [
            ["lsp-add", external, provnet],
            ["set", "Logical_Switch_Port", provnet, "type=localnet", "addresses=unknown",
             f"options:network_name={self.physnet}", "options:mcast_flood=false",
             "options:mcast_flood_reports=true"],
        ]  # fmt: skip
        return steps

    def _router(self) -> list[list[str]]:
        router, external = self.router, f"neutron-{known_as('public')}"
        inner, gateway = known_as("router inner port"), known_as("router gateway port")
        steps = [
            ["lr-add", router],
            ["set", "Logical_Router", router, "enabled=true",
             *_ids(router_name="router1", gw_port_id=gateway, revision_number="3",
                   availability_zone_hints=""),
             "options:always_learn_from_arp_request=false", "options:dynamic_neigh_routers=true",
             "options:mac_binding_age_threshold=0"],
        ]  # fmt: skip
        for switch, port, interface, mac, owner in (
            (self.network, inner, self.inside, "fa:16:3e:00:01:01", "router_interface"),
            (external, gateway, self.outside, "fa:16:3e:00:01:02", "router_gateway"),
        ):
            steps += [
                ["lrp-add", router, f"lrp-{port}", mac, str(interface)],
                ["set", "Logical_Router_Port", f"lrp-{port}",
                 *_ids(network_name=switch, revision_number="3", router_name=known_as("router"),
                       subnet_ids=known_as(f"subnet {interface.network}"))],
                ["lsp-add", switch, port],
                ["set", "Logical_Switch_Port", port, "type=router", "addresses=router",
                 f"options:router-port=lrp-{port}", "enabled=true",
                 *_ids(port_name="", device_id=known_as("router"), device_owner=f"network:{owner}",
                       network_name=switch, cidrs=str(interface), revision_number="3")],
            ]  # fmt: skip
        steps += [
            ["lrp-set-gateway-chassis", f"lrp-{gateway}", self.host, "1"],
            ["lr-route-add", router, "0.0.0.0/0", self.next_hop],
            ["lr-nat-add", router, "snat", str(self.outside.ip), str(self.inside.network)],
        ]
        for called, address in self.floating.items():
            holder = next(one for one in self.ports if one.called == called)
            steps.append(["lr-nat-add", router, "dnat_and_snat", address, holder.address])
        return steps

    # -- instances ---------------------------------------------------------------------------------

    def _instances(self) -> list[list[str]]:
        network, metadata = self.inside.network, self.inside.network[2]
        options = {
            "server_id": str(self.inside.ip), "server_mac": "fa:16:3e:00:01:01",
            "lease_time": "43200", "mtu": str(self.mtu), "router": str(self.inside.ip),
            "dns_server": "{192.0.2.53}",
            "classless_static_route":
                f"{{169.254.169.254/32,{metadata}, 0.0.0.0/0,{self.inside.ip}}}",
        }  # fmt: skip
        steps = [
            ["--id=@dhcp", "create", "DHCP_Options", f'cidr="{network}"',
             f"external_ids:subnet_id={known_as(f'subnet {network}')}",
             'external_ids:neutron\\:revision_number="0"',
             *(f'options:{key}="{value}"' for key, value in options.items())],
        ]  # fmt: skip
        agent = known_as("metadata")
        steps += [
            ["lsp-add", self.network, agent],
            ["set", "Logical_Switch_Port", agent, "type=localport", "enabled=true",
             f'addresses="fa:16:3e:00:01:03 {metadata}"',
             *_ids(port_name="", device_id=f"ovnmeta-{known_as('private')}",
                   device_owner="network:distributed", network_name=self.network)],
        ]  # fmt: skip
        for port in self.ports:
            both = f'"{port.mac} {port.address}"'
            steps += [
                ["lsp-add", self.network, port.name],
                ["set", "Logical_Switch_Port", port.name, f"addresses={both}",
                 f"port_security={both}", "enabled=true", "dhcpv4_options=@dhcp",
                 f"options:requested-chassis={self.host}", "options:mcast_flood_reports=true",
                 *_ids(port_name=port.called, device_id=known_as(f"instance {port.called}"),
                       device_owner="compute:nova", network_name=self.network,
                       cidrs=f"{port.address}/{network.prefixlen}", revision_number="4",
                       project_id=known_as("project"), vnic_type="normal", port_capabilities="",
                       security_group_ids=known_as(f"group {port.group}"))],
            ]  # fmt: skip
        for name in ("neutron_pg_drop", *sorted({port.group for port in self.ports})):
            members = [p.name for p in self.ports if name in ("neutron_pg_drop", p.group)]
            group = name if name == "neutron_pg_drop" else self.group(name)
            steps.append(["pg-set-ports", group, *members])
        return steps


def _ids(**values: str) -> list[str]:
    return [f'external_ids:neutron\\:{key}="{value}"' for key, value in values.items()]


def _rule(group: str, way: str, match: str) -> list[str]:
    return ["--type=port-group", "acl-add", group, way, "1002", match, "allow-related"]


def by_hand(nb: str, switch: str, subnet: str, ports: Sequence[str]) -> None:
    """A network as a person makes it: names as they come, addresses left to OVN."""
    words = ["ls-add", switch, "--", "set", "Logical_Switch", switch,
             f"other_config:subnet={subnet}"]  # fmt: skip
    for port in ports:
        words += ["--", "lsp-add", switch, port, "--", "lsp-set-addresses", port, "dynamic"]
    nbctl(nb, *words)


def rows_of_others(nb: str) -> dict[str, list[str]]:
    """Every row of the northbound database that is not Millrace's, as text, by table.

    Without what ovn-northd itself writes there: whether a port is up, and its answers.
    """
    text = processes.run(["ovsdb-client", "-f", "json", "dump", nb, "OVN_Northbound"])
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        table = json.loads(line)
        name, headings = table["caption"].removesuffix(" table"), table["headings"]
        if name in ("NB_Global", "Connection"):
            continue
        rows = [dict(zip(headings, row, strict=True)) for row in table["data"]]
        found[name] = sorted(
            json.dumps({key: value for key, value in row.items() if key != "up"})
            for row in rows
            if not _OURS.intersection(map(tuple, row.get("external_ids", ["map", []])[1]))
            # Some tables have no external_ids: names say whose they are (docs/controller.md).
            and not str(row.get("name", "")).startswith(("mrk-", "millrace-"))
        )
    return found
