"""Objects that nobody would write, of every kind: they cost nobody else his network."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest
import yaml

from controller.kinds.errors import KindError
from controller.kube.resources import Key
from controller.network.engine import Engine
from controller.network.registry import WATCHED, Watched
from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from tests.labs import kubecluster as objects
from tests.labs.definitions import CRDS

SETTINGS = NetSettings(default_cidr="10.9.0.0/24", join_cidr="100.64.0.0/24")
TEXTS = (
    "", " ", ",", "..", "a..b", "0", "-1", "65536", "true", "x" * 300, "\n", '"', "'", ")", "$x",
    "[]", "{}", "[{}]", "null", '[{"name":1}]', "0.0.0.0/0", "::/0", "10.0.0.0/33", "10.0.0.9",
    "10.0.0.9-10.0.0.1", "10.0.0.1..10.0.0.3", "10.0.0.0/8,fd00::/8", "10.0.0.0/8,10.1.0.0/16",
    "fe80::1%eth0", "::ffff:1.2.3.4", "224.0.0.1", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01",
    "default", "ovn", "ovn-default", "join", "ovn-cluster", "shop", "a", "b", "ip4.src == $a",
)  # fmt: skip
NUMBERS = (0, 1, -1, 80, 65_536, 2**31, 2**63)
SIGNS = ("ip_address", "ip_pool", "logical_switch", "mac_address", "routes", "vip", "vlan",
         "security_groups", "ingress_rate", "vpc", "cidr", "gateway", "port_security")  # fmt: skip
KINDS: dict[str, list[Watched]] = defaultdict(list)
for one in WATCHED:
    KINDS[one.resource.kind].append(one)


class Odd:
    """Objects as their definitions have them, with values that make no sense."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        definitions = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
        self._definitions = [one["spec"] for one in definitions]

    def custom(self) -> dict[str, Any]:
        """Of a custom kind."""
        spec = self._random.choice(self._definitions)
        version = spec["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]["properties"]
        name = f"{self._random.choice('ab')}{self._random.randrange(3)}"
        made: dict[str, Any] = {
            "apiVersion": f"{spec['group']}/{version['name']}",
            "kind": spec["names"]["kind"],
            "metadata": {"name": name},
        }
        if spec["scope"] == "Namespaced":
            made["metadata"]["namespace"] = "shop"
        for part, often in (("spec", 1.0), ("status", 0.3)):
            if part in schema and self._random.random() < often:
                made[part] = self._value(schema[part])
        return made

    def pod(self) -> dict[str, Any]:
        """A pod that asks for much."""
        signs = self._random.sample(SIGNS, 3)
        texts = {f"ovn.kubernetes.io/{sign}": self._random.choice(TEXTS) for sign in signs}
        texts["k8s.v1.cni.cncf.io/networks"] = self._random.choice(TEXTS)
        return objects.pod("shop", f"p{self._random.randrange(4)}", "n1", **texts)

    def _value(self, schema: dict[str, Any]) -> Any:
        if "enum" in schema and self._random.random() < 0.8:
            return self._random.choice(schema["enum"])
        match schema.get("type"):
            case "integer" | "number":
                return self._random.choice(NUMBERS)
            case "boolean":
                return self._random.random() < 0.5
            case "array":
                count = self._random.choice((0, 1, 1, 2, 3))
                return [self._value(schema.get("items", {})) for _ in range(count)]
            case "object":
                found = schema.get("properties", {})
                always = schema.get("required", ())
                return {
                    name: self._value(below)
                    for name, below in found.items()
                    if name in always or self._random.random() < 0.4
                }
            case _:
                return self._random.choice(TEXTS)


def put(engine: Engine, obj: dict[str, Any]) -> None:
    """As the sources do: what cannot be read is left out."""
    for watched in KINDS[obj["kind"]]:
        try:
            struct = msgspec.json.decode(msgspec.json.encode(obj), type=watched.resource.struct)
        except msgspec.ValidationError:
            continue
        meta = struct.metadata
        key = watched.fact_key(Key(meta.namespace, meta.name))
        try:
            fact = watched.decode(struct)
            watched.warn(struct)
        except KindError:
            continue
        engine.put(((watched.kind, key, fact),))


def bystander() -> list[dict[str, Any]]:
    """A network of somebody who has nothing to do with it."""
    vpc = {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "bystander"}}
    return [
        {**vpc, "spec": {"namespaces": ["bystander"]}},
        objects.namespace("bystander"),
        objects.subnet("bystander", "172.31.0.0/24", "bystander", vpc="bystander"),
        objects.pod("bystander", "bystander", "n1"),
    ]


def rows_of(engine: Engine) -> dict[RowKey, Any]:
    return {key: row for key, row in engine.book.rows.items() if "bystander" in key.name}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_is_written_makes_a_unit_fail_or_touches_who_is_not_concerned(
    seed: int,
) -> None:
    odd = Odd(seed)
    for late in (False, True) * 6:
        engine = Engine(SETTINGS)
        put(engine, objects.node("n1", "192.0.2.1"))
        for one in bystander():
            put(engine, one)
        before: dict[RowKey, Any] = {}
        if late:
            engine.start()
            before = rows_of(engine)
            assert len(before) > 3
        for number in range(40):
            put(engine, odd.pod() if number % 4 == 0 else odd.custom())
            if late:
                engine.update()
        if not late:
            engine.start()
        engine.gateways()
        assert engine.failed() == {}
        now = rows_of(engine)
        alone = Engine(SETTINGS)
        put(alone, objects.node("n1", "192.0.2.1"))
        for one in bystander():
            put(alone, one)
        alone.start()
        assert now == (before or rows_of(alone))
