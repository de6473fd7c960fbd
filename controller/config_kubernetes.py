"""The Kubernetes controller's TOML file: where everything is, and what is decided for all objects.

An empty file is a whole one for a controller that runs in the cluster, but for `controller.nb`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from controller import config_values as values
from controller.config import read_document
from controller.config_gateways import gateways_config
from controller.config_reader import TableReader, shown
from controller.network.gateways import GatewayTemplate
from controller.network.settings import NetSettings
from dataplane.model.config import EastWest

DEFAULT_SOCKET = "/run/millrace/controller.sock"
LEASE = "millrace-controller"
_LINE = re.compile(r"[^\n]+")


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """What the controller is told.

    Attributes:
        nb: the northbound database, all members of its cluster.
        tls: private key, certificate and authorities for `ssl:` remotes; None: none of them.
        kubeconfig: its path; "": the service account of the pod that we run in.
        namespace: where the Lease is; "": the one that we run in.
        identity: who we are among candidates; "": made up from the host's name.
        socket: where `millrace controller status` asks.
        gateways: what nodes' gateway routers have in common; None: none are made.
    """

    nb: str
    tls: tuple[str, str, str] | None = None
    kubeconfig: str = ""
    namespace: str = ""
    lease: str = LEASE
    identity: str = ""
    socket: str = DEFAULT_SOCKET
    network: NetSettings = field(default_factory=NetSettings)
    gateways: GatewayTemplate | None = None


def load_kubernetes(path: Path) -> KubernetesConfig:
    """The configuration in a file.

    Raises:
        ConfigProblems: it cannot be read, or what it says is wrong.
    """
    return read_document(path, kubernetes_config)


def kubernetes_config(root: TableReader) -> KubernetesConfig:
    """The configuration in a document; faults are in its notes, stand-ins in their places."""
    table = root.table("controller")
    nb = values.remote(table, "nb", None)
    tls = values.tls(table)
    values.needs_tls(table, tls, "nb")
    kubeconfig = _word(table, "kubeconfig", "", "/etc/millrace/kubeconfig")
    namespace = _word(table, "namespace", "", "millrace-system")
    lease = _word(table, "lease", LEASE, LEASE)
    identity = _word(table, "identity", "", "controller-0")
    socket = values.path(table, "socket", DEFAULT_SOCKET)
    table.finish()
    network, gateways = _network(root), gateways_config(root, nb)
    return KubernetesConfig(
        nb, tls, kubeconfig, namespace, lease, identity, socket, network, gateways
    )


def _network(root: TableReader) -> NetSettings:
    table = root.table("network")
    decided = NetSettings()
    found = NetSettings(
        east_west=table.choice("east_west", EastWest, default=decided.east_west),
        pools=_pools(root),
        default_pool=_word(table, "default_pool", "", "public"),
        external_subnet=_word(table, "external_subnet", "", "external"),
        external_network=_word(table, "external_network", decided.external_network, "external"),
        external_vlan=table.integer("external_vlan", 0, 4094, default=decided.external_vlan),
        lax=table.boolean("lax", default=decided.lax),
        stateless=table.boolean("stateless", default=decided.stateless),
        default_subnet=_word(table, "default_subnet", decided.default_subnet, "a"),
        default_cidr=_cidr(table, "default_cidr", decided.default_cidr),
        join_subnet=_word(table, "join_subnet", decided.join_subnet, "join"),
        join_cidr=_cidr(table, "join_cidr", decided.join_cidr),
        mtu=table.integer("mtu", 0, 65535, default=decided.mtu),
        port_security=table.boolean("port_security", default=decided.port_security),
    )
    table.finish()
    return found


def _word(table: TableReader, key: str, default: str | None, example: str) -> str:
    rule = "it has to be one line, and not empty"
    return table.text(key, default=default, example=example, pattern=_LINE, rule=rule)


def _cidr(table: TableReader, key: str, default: str) -> str:
    text = _word(table, key, default, "10.16.0.0/16")
    for part in filter(None, text.split(",")):
        try:
            ip_network(part.strip())
        except ValueError as error:
            table.fault(
                key, f"{table.name(key)} = {shown(text)}", str(error), 'write "10.16.0.0/16"'
            )
    return text


def _pools(root: TableReader) -> Mapping[str, tuple[str, ...]]:
    pools: dict[str, tuple[str, ...]] = {}
    for table in root.tables("pool"):
        name = _word(table, "name", None, "public")
        found = table.items("addresses", str, example='["203.0.113.0/28"]')
        table.finish()
        pools[name] = tuple(found.values())
    return pools
