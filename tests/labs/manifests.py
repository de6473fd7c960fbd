"""Manifests as a user writes them: to facts as the controller reads them, and to a network."""

from __future__ import annotations

import msgspec
import yaml

from controller.kube.resources import Key
from controller.network.engine import Engine
from controller.network.registry import WATCHED
from controller.network.rows import Row, RowKey
from controller.network.settings import NetSettings
from tests.labs.definitions import refusals
from tests.labs.packetlab import Station


def engine_of(text: str, settings: NetSettings) -> Engine:
    """An engine that has been started with these objects."""
    engine = Engine(settings)
    put(engine, text)
    engine.start()
    return engine


def put(engine: Engine, text: str) -> None:
    """Put objects in, as if the API had told of them. Fields nobody knows are not accepted."""
    for document in yaml.safe_load_all(text):
        group, _, version = document["apiVersion"].rpartition("/")
        found = [
            one
            for one in WATCHED
            if (one.resource.group, one.resource.version, one.resource.kind)
            == (group, version, document["kind"])
        ]
        assert found, f"nobody watches {document['kind']}"
        assert refusals(document) == [], "a server with our definitions does not take it"
        for one in found:
            obj = msgspec.json.decode(msgspec.json.encode(document), type=one.resource.struct)
            assert one.warn(obj) == ()
            meta = obj.metadata
            key = one.fact_key(Key(meta.namespace, meta.name))
            engine.put(((one.kind, key, one.decode(obj)),))


def pod(name: str, namespace: str = "default", **notes: str) -> str:
    """A pod's manifest, with Kube-OVN's annotations, and the mark behind it."""
    said = ", ".join(f'ovn.kubernetes.io/{key}: "{value}"' for key, value in notes.items())
    return f"""
apiVersion: v1
kind: Pod
metadata:
  {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}, annotations: {{{said}}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}
---"""


def namespaces(*names: str) -> str:
    """Namespaces' manifests, and the mark behind each."""
    return "".join(
        f"\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---" for name in names
    )


NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---"""
"""The one that a network with one chassis has, and the mark behind it."""


def joined(*texts: str) -> str:
    """Manifests as one text, whatever marks are at their ends."""
    documents = (document for text in texts for document in text.split("\n---"))
    return "\n---\n".join(document for document in documents if document.strip())


def stations(rows: dict[RowKey, Row]) -> dict[str, Station]:
    """The workloads' and nodes' ports of these rows, as stations of a packet lab."""
    found: dict[str, Station] = {}
    for key, row in rows.items():
        if key.table != "Logical_Switch_Port" or row.columns.get("type") or row.parent is None:
            continue
        if row.columns.get("enabled") is False:
            continue
        addresses = row.columns["addresses"]
        assert isinstance(addresses, frozenset)
        mac, *hosts = str(min(addresses)).split()
        lengths = {"4": "24", "6": "64"}
        found[key.name] = Station(
            key.name,
            row.parent[0].name,
            mac,
            tuple(f"{host}/{lengths['6' if ':' in host else '4']}" for host in hosts),
        )
    return found


def gateways(rows: dict[RowKey, Row]) -> tuple[dict[str, str], dict[str, str]]:
    """By switch: the router's IPv4 address there, and its MAC."""
    hosts: dict[str, str] = {}
    macs: dict[str, str] = {}
    for key, row in rows.items():
        if key.table != "Logical_Router_Port" or "peer" in row.columns or row.parent is None:
            continue
        switch = key.name.removeprefix(f"{row.parent[0].name}-")
        networks = row.columns["networks"]
        assert isinstance(networks, frozenset)
        hosts[switch] = next(str(n).partition("/")[0] for n in networks if "." in str(n))
        macs[switch] = str(row.columns["mac"])
    return hosts, macs


WEB_ENDPOINTS = """---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.16.0.9], conditions: {ready: true}, nodeName: n1}]
ports: [{port: 8080, protocol: TCP, name: ""}]
"""
"""One endpoint of the service `web` in `shop`, behind a mark."""
