"""Services and slices as the API sends them, and what a node's reader makes of our rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from controller.kube.resources import Key
from controller.kube.structs import EndpointSlice, Service
from controller.network.rows import Row, RowKey
from controller.network.servicefacts import SERVICES, SLICES, service_fact, slice_fact
from controller.network.view import Kind
from controller.translate.ovn import LoadBalancer, NbSnapshot


def service_json(name: str, namespace: str = "ns", **spec: Any) -> dict[str, Any]:
    """A service of the cluster IP 10.96.0.10 with the port http (80), unless told otherwise."""
    status = spec.pop("status", {})
    annotations = spec.pop("annotations", {})
    spec.setdefault("clusterIPs", ["10.96.0.10"])
    spec.setdefault("ports", [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}])
    meta = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"metadata": meta, "spec": spec, "status": status}


def slice_json(name: str, service: str, *addresses: str | dict[str, Any], **rest: Any) -> Any:
    """A slice; an address alone is a ready endpoint."""
    endpoints = [
        {"addresses": [one], "conditions": {"ready": True}} if isinstance(one, str) else one
        for one in addresses
    ]
    rest.setdefault("ports", [{"name": "http", "port": 8080, "protocol": "TCP"}])
    meta = {
        "name": name,
        "namespace": rest.pop("namespace", "ns"),
        "labels": {"kubernetes.io/service-name": service},
    }
    return {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, **rest}


def facts(*objects: dict[str, Any]) -> dict[Kind[Any], dict[Any, Any]]:
    """The facts of services and slices, decoded as the controller does."""
    found: dict[Kind[Any], dict[Any, Any]] = {SERVICES: {}, SLICES: {}}
    for one in objects:
        key = Key(one["metadata"]["namespace"], one["metadata"]["name"])
        text = json.dumps(one).encode()
        if "addressType" in one:
            part = slice_fact(msgspec.json.decode(text, type=EndpointSlice))
            if part is not None:
                found[SLICES][key] = part
        else:
            found[SERVICES][key] = service_fact(msgspec.json.decode(text, type=Service))
    return found


def balancers(rows: Mapping[RowKey, Row]) -> NbSnapshot:
    """The load balancer rows as a node's watcher sees them."""
    found = {}
    for key, row in rows.items():
        if key.table == "Load_Balancer":
            columns: dict[str, Any] = dict(row.columns)
            found[key.name] = LoadBalancer(
                columns["name"],
                dict(columns["vips"]),
                columns["protocol"],
                dict(columns["options"]),
                dict(columns.get("external_ids", ())),
            )
    return NbSnapshot(load_balancers=found)
