"""Whatever a cluster has, somebody is told of it, and whoever has nothing to do with it goes on.

Objects are made of the schemas by which servers take them (the definitions in deploy/ for custom
kinds), so that they are what a server may hand out, however odd.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kube.auth import Access
from controller.kube.decoding import Decoder
from controller.kube.http import Client
from controller.kubesources import Sources, Taken
from controller.network.engine import Engine
from controller.network.merging import Changes
from controller.network.registry import WATCHED
from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from controller.network.units import ObjectRef, Wanted
from tests.apistandin import patches, schemas, structural
from tests.apistandin.admission import check_metadata
from tests.apistandin.failure import Cause
from tests.apistandin.kinds import Kind
from tests.labs import strange
from tests.labs.definitions import definitions, schema_of

BUILT_IN = {
    "pods": schemas.POD,
    "nodes": schemas.NODE,
    "namespaces": schemas.NAMESPACE,
    "services": schemas.SERVICE,
    "endpointslices.discovery.k8s.io": schemas.ENDPOINT_SLICE,
    "networkpolicies.networking.k8s.io": schemas.NETWORK_POLICY,
}
RESOURCES = {str(one.resource): one.resource for one in WATCHED}
WITNESS = RowKey("Logical_Switch_Port", "witness.quiet")


def schema(resource: str) -> Any:
    if resource in definitions():
        return schema_of(resource)
    free = {"type": "object", "properties": {"spec": brought(), "status": {"type": "object"}}}
    return BUILT_IN.get(resource, free)


def brought() -> Any:
    """The specification of kinds whose definitions others bring: Multus, KubeVirt, Kubernetes."""
    number, text = {"type": "integer"}, {"type": "string"}
    ordinals = {"type": "object", "properties": {"start": number}}
    properties = {"config": text, "replicas": number, "ordinals": ordinals}
    return {"type": "object", "properties": properties}


def made(resource: str, name: str, uid: str, random: Random) -> dict[str, Any]:
    of = RESOURCES[resource]
    namespace = random.choice(("a", "b", "default")) if of.namespaced else ""
    odd = resource not in BUILT_IN
    body = strange.value(schema(resource), random, odd=odd)
    body = {key: item for key, item in body.items() if key not in ("apiVersion", "kind")}
    body["metadata"] = strange.metadata(name, namespace, uid, random)
    if of.plural == "endpointslices" and random.random() < 0.8:
        labels = body["metadata"].setdefault("labels", {})
        labels["kubernetes.io/service-name"] = random.choice(strange.USED)
    return {"apiVersion": of.api_version, "kind": of.kind, **body}


def quiet() -> Iterator[tuple[str, dict[str, Any]]]:
    """A pod that everything else must leave alone, and what it needs."""
    meta = {"resourceVersion": "1", "uid": "w", "creationTimestamp": "2020-01-01T00:00:00Z"}
    network = {"cidrBlock": "172.31.0.0/24", "gateway": "172.31.0.1", "namespaces": ["quiet"]}
    yield "namespaces", {"metadata": {"name": "quiet", **meta}}
    yield "nodes", {"metadata": {"name": "still", **meta}}
    yield "subnets.kubeovn.io", {"metadata": {"name": "calm", **meta}, "spec": network}
    yield (
        "pods",
        {
            "metadata": {"name": "witness", "namespace": "quiet", **meta},
            "spec": {"nodeName": "still", "containers": [{"name": "c"}]},
        },
    )


class World:
    """Everything between the API's JSON and rows, without the API."""

    def __init__(self) -> None:
        self.sources = Sources(Client(Access("http://127.0.0.1:1")), WATCHED)
        self.engine = Engine(NetSettings())
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.revision = 1
        for resource, body in quiet():
            self.put(resource, body)

    def put(self, resource: str, body: dict[str, Any]) -> None:
        meta = body["metadata"]
        self.objects.setdefault(resource, {})[meta.get("namespace", ""), meta["name"]] = body

    def deliver(self) -> None:
        self.revision += 1
        for resource, found in self.objects.items():
            meta = {"resourceVersion": str(self.revision)}
            text = msgspec.json.encode({"metadata": meta, "items": list(found.values())})
            page = Decoder(RESOURCES[resource]).page(text)
            assert len(page.entries) == len(found)
            self.sources.cache(resource).replace(page.entries, page.revision)

    def step(self) -> tuple[Taken, Changes]:
        self.deliver()
        if not self.engine.started:
            taken = self.sources.take_all()
            self.engine.put(taken.facts)
            return taken, self.engine.start()
        taken = self.sources.take()
        self.engine.put(taken.facts)
        self.engine.end(taken.ending)
        return taken, self.engine.update()


def refused(ref: ObjectRef, wanted: Wanted) -> list[Cause]:
    """What a server would not take of what an object is to say of itself."""
    resource = RESOURCES[ref.resource]
    kind = Kind("", "v1", resource.plural, resource.kind, resource.namespaced, schema={})
    notes = {key: text for key, text in wanted.annotations.items() if text is not None}
    found = [*check_metadata(kind, {"metadata": {"name": "x", "annotations": notes}})]
    conditions = [
        {"type": name, "status": one[0], "reason": one[1], "message": one[2]}
        for name, one in wanted.conditions.items()
    ]
    status = patches.merge({}, wanted.status)
    status |= {"conditions": conditions} if conditions and ref.resource not in BUILT_IN else {}
    below = schema(ref.resource)["properties"].get("status")
    return [*found, *structural.validate(msgspec.to_builtins(status), below, "status")]


@settings(max_examples=60)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from(sorted(RESOURCES)), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_nothing_odd_ends_the_work_or_is_passed_over(
    random: Random, resources: list[str], rounds: int
) -> None:
    world = World()
    world.step()
    rows = world.engine.book.rows
    assert rows[WITNESS].columns["addresses"], "the witness has an address"
    given_address = rows[WITNESS].columns["addresses"]
    for number in range(rounds):
        for resource in resources:
            name = random.choice(strange.USED)
            # Names come again, of the same object or of another one; uids come twice.
            uid = random.choice((name, f"{name}-{number}", "same"))
            world.put(resource, made(resource, name, uid, random))
        taken, changes = world.step()
        for ref, wanted in changes.writes.items():
            assert not refused(ref, wanted), (ref, wanted)
        told = [one for problems in taken.problems.values() for one in problems]
        assert not [one for one in told if "defect" in one.next_step], told
        assert not world.engine.failed(), world.engine.failed()
        assert world.engine.book.rows[WITNESS].columns["addresses"] == given_address
