"""The API of a large cluster in a process of its own: the load of `python -m perf.cluster`.

It fills the stand-in, prints its URL, and then obeys lines of JSON on its standard input. Each
answer is a line with the moment [s, CLOCK_MONOTONIC] at which the change was made.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects

PODS = ("", "pods")


def pod(number: int, subnets: int, nodes: int, tier: int = 0) -> dict[str, Any]:
    """A pod; its labels say which service and policies mean it."""
    space = f"ns{number % subnets}"
    made = objects.pod(space, f"pod{number}", f"node{number % nodes}")
    made["metadata"]["labels"] = {"app": f"app{number // subnets % 20}", "tier": f"t{tier}"}
    return made


def service(number: int, subnets: int, port: int = 80) -> list[dict[str, Any]]:
    """A service with five endpoints in one slice."""
    space, name = f"ns{number % subnets}", f"svc{number}"
    ports = [{"name": "http", "port": port, "targetPort": 80, "protocol": "TCP"}]
    ends = [
        {"addresses": [f"10.64.{number % 16}.{one + 1}"], "conditions": {"ready": True}}
        for one in range(5)
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": space, "name": name},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
                "ports": ports,
                "selector": {"app": f"app{number // subnets % 20}"},
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": space,
                "name": f"{name}-a",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": ends,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    ]


def policy(number: int, subnets: int, port: int = 80) -> dict[str, Any]:
    """A policy: one application of a namespace takes a port from another."""
    app = number // subnets % 20
    peers = [{"podSelector": {"matchLabels": {"app": f"app{(app + 1) % 20}"}}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": f"ns{number % subnets}", "name": f"policy{number}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": f"app{app}"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"port": port, "protocol": "TCP"}]}],
        },
    }


def fill(api: StandIn, size: dict[str, int]) -> None:
    """Make all objects."""
    objects.define(api)
    for number in range(size["nodes"]):
        address = f"192.0.{2 + number // 250}.{number % 250 + 1}"
        objects.put(api, objects.node(f"node{number}", address))
    for number in range(size["subnets"]):
        objects.put(api, objects.namespace(f"ns{number}"))
        cidr = f"10.{64 + number // 16}.{number % 16 * 16}.0/20"
        objects.put(api, objects.subnet(f"net{number}", cidr, f"ns{number}"))
    for number in range(size["pods"]):
        objects.put(api, pod(number, size["subnets"], size["nodes"]))
    for number in range(size["services"]):
        for one in service(number, size["subnets"]):
            objects.put(api, one)
    for number in range(size["policies"]):
        objects.put(api, policy(number, size["subnets"]))


async def obey(api: StandIn, size: dict[str, int], order: dict[str, Any]) -> dict[str, Any]:
    """Carry one order out."""
    subnets, nodes = size["subnets"], size["nodes"]
    number = order.get("number", 0)
    match order["do"]:
        case "pod":
            objects.put(api, pod(number, subnets, nodes))
        case "drop":
            objects.drop(api, "pods", f"pod{number}", f"ns{number % subnets}")
        case "service":
            objects.put(api, service(number, subnets, order["port"])[0])
        case "policy":
            objects.put(api, policy(number, subnets, order["port"]))
        case "churn":
            return await churn(api, size, order["rate"], order["seconds"])
        case other:
            msg = f"no such order: {other}"
            raise ValueError(msg)
    return {"at": time.monotonic()}


def store(api: StandIn, obj: dict[str, Any]) -> None:
    """Have a pod without the checks of an API server, which take longer than all that follows."""
    meta = obj["metadata"]
    meta["uid"] = f"uid-{meta['name']}"
    meta["creationTimestamp"] = api.cluster.timestamp()
    meta["resourceVersion"] = str(api.cluster.store.next_revision())
    api.cluster.store.write(PODS, (meta["namespace"], meta["name"]), obj)


async def churn(api: StandIn, size: dict[str, int], rate: int, seconds: float) -> dict[str, Any]:
    """Pods that come and go, so many changes a second; the last one makes the pod `last`."""
    began, done, late = time.monotonic(), 0, 0.0
    total = int(rate * seconds)
    first = 1_000_000
    while done < total:
        due = min(total, int((time.monotonic() - began) * rate) + 1)
        while done < due:
            # Each pod lives for two thousand changes.
            if done % 2 == 0:
                store(api, pod(first + done, size["subnets"], size["nodes"]))
            elif done > 2000:
                gone = first + done - 2001
                api.cluster.store.write(PODS, (f"ns{gone % size['subnets']}", f"pod{gone}"), None)
            done += 1
        late = max(late, time.monotonic() - began - done / rate)
        await asyncio.sleep(0.01)
    last = first + total + total % 2
    store(api, pod(last, size["subnets"], size["nodes"]))
    return {
        "at": time.monotonic(),
        "last": f"pod{last}.ns{last % size['subnets']}",
        "changes": done + 1,
        "seconds": time.monotonic() - began,
        "late_s": late,
    }


async def serve(size: dict[str, int]) -> None:
    """Serve until the standard input ends."""
    async with StandIn() as api:
        fill(api, size)
        print(api.url, flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            print(json.dumps(await obey(api, size, json.loads(line))), flush=True)
            api.requests.clear()


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # watchers that end are no news here
    asyncio.run(serve(json.loads(sys.argv[1])))
