"""Objects that cannot be read, and rows that are refused: nobody loses his network by them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controller.config_kubernetes import KubernetesConfig
from controller.kubenet import Controller
from controller.network.rows import RowKey
from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options
from tests.labs import kubecluster as objects
from tests.labs import kubecontrol
from tests.labs.kubecontrol import until
from tests.labs.ovnsandbox import OvnSandbox, northbound

SUBNET = "subnets.kubeovn.io"
CIDR = "10.30.0.0/16"
NAMES = ("web0", "web1", "web2")


@pytest.fixture(scope="module")
def nb() -> Iterator[OvnSandbox]:
    """A northbound database."""
    with northbound() as box:
        yield box


@asynccontextmanager
async def leading(api: StandIn, nb: OvnSandbox, identity: str = "a") -> AsyncIterator[Controller]:
    config = KubernetesConfig(nb.nb, namespace="kube-system", identity=identity)
    async with kubecontrol.controlling(api, config) as controller:
        await until("it is settled", lambda: bool(controller.counts.settled_at))
        yield controller


def edit(api: StandIn, sub: str = "", **fields: Any) -> None:
    """Change the subnet: a field of its specification, or its whole status."""
    there = copy.deepcopy(objects.look(api, SUBNET, "shopnet"))
    assert there is not None
    if sub:
        there[sub] = fields
    else:
        there["spec"] |= fields
    kind = next(one for one in api.cluster.kinds.values() if one.plural == "subnets")
    api.cluster.replace(kind, "", "shopnet", there, sub, Options("test"))


def told(case: Callable[[StandIn], Awaitable[None]]) -> None:
    """Run a case with a cluster of one subnet and three pods."""

    async def story() -> None:
        async with StandIn() as api:
            objects.define(api)
            objects.put(api, objects.node("n1", "192.0.2.1"))
            objects.put(api, objects.namespace("shop"))
            objects.put(api, objects.subnet("shopnet", CIDR, "shop"))
            for name in NAMES:
                objects.put(api, objects.pod("shop", name))
            await case(api)

    asyncio.run(story())


def addresses(nb: OvnSandbox) -> dict[str, str]:
    """What pods' ports have; a port that is gone has nothing."""
    there = nb.nbctl("--bare", "--columns=name", "list", "Logical_Switch_Port").split()
    return {
        name: nb.nbctl("lsp-get-addresses", f"{name}.shop")
        for name in (*NAMES, "late")
        if f"{name}.shop" in there
    }


def problems(controller: Controller, word: str) -> list[str]:
    return [
        str(ref)
        for ref, found in controller.back.all_problems().items()
        if any(word in str(one) for one in found)
    ]


def test_a_subnet_that_cannot_be_read_any_more_keeps_what_it_was(nb: OvnSandbox) -> None:
    async def case(api: StandIn) -> None:
        async with leading(api, nb) as controller:
            before = addresses(nb)
            assert set(before) == set(NAMES)
            edit(api, cidrBlock=5)
            await until("it says so", lambda: problems(controller, "cidrBlock") != [])
            objects.put(api, objects.pod("shop", "late"))
            await until("a new pod has a port", lambda: "late" in addresses(nb))
            assert "10.30." in addresses(nb)["late"]
            assert addresses(nb).items() >= before.items()
            assert (await controller.sight.status({}))["unread"] == []
            before = addresses(nb)
            await until("all is told", lambda: not controller.back.waiting)
        # Who begins anew never saw what it was.
        async with leading(api, nb, "b") as controller:
            assert addresses(nb) == before
            assert (await controller.sight.status({}))["unread"] == [f"{SUBNET} shopnet"]
            objects.drop(api, "pods", "web1", "shop")
            edit(api, cidrBlock=CIDR)
            await until("who is gone is swept", lambda: "web1" not in addresses(nb))
            del before["web1"]
            assert addresses(nb) == before
            assert (await controller.sight.status({}))["unread"] == []
            await until("nothing is wrong", lambda: not problems(controller, "cidrBlock"))
            edit(api, cidrBlock=5)
            await until("it says so", lambda: problems(controller, "cidrBlock") != [])
            for name in (*NAMES, "late"):
                if name != "web1":
                    objects.drop(api, "pods", name, "shop")
            await until("ports go", lambda: not addresses(nb))
            objects.drop(api, SUBNET, "shopnet")

            def switches() -> list[str]:
                return nb.nbctl("--bare", "--columns=name", "list", "Logical_Switch").split()

            await until("a deleted one goes", lambda: "shopnet" not in switches())

    told(case)


def test_a_subnet_that_never_could_be_read_is_not_ready(nb: OvnSandbox) -> None:
    async def case(api: StandIn) -> None:
        edit(api, cidrBlock=5)

        def said() -> dict[str, tuple[str, str]]:
            there = objects.look(api, SUBNET, "shopnet") or {}
            found = there.get("status", {}).get("conditions", [])
            return {one["type"]: (one["status"], one["message"]) for one in found}

        async with leading(api, nb):
            await until("it is not ready", lambda: said().get("Ready", ("",))[0] == "False")
            assert "cidrBlock" in said()["Ready"][1]
            assert said()["Error"][0] == "True"
            edit(api, cidrBlock=CIDR)
            await until("it is ready", lambda: said()["Ready"][0] == "True")
            await until("nothing is wrong", lambda: said()["Error"][0] == "False")

    told(case)


def test_what_was_refused_of_a_row_is_forgotten_with_it(nb: OvnSandbox) -> None:
    async def case(api: StandIn) -> None:
        async with leading(api, nb) as controller:
            key = RowKey("Logical_Switch_Port", "web1.shop")
            assert controller.engine is not None
            [(_, ref)] = controller.engine.book.sayers(key)
            controller.writer._blame(key, "the test says no")
            assert problems(controller, "the test says no") == [str(ref)]
            objects.drop(api, "pods", "web1", "shop")
            await until("it is gone", lambda: "web1" not in addresses(nb))
            await until("so is that", lambda: not problems(controller, "the test says no"))

    told(case)


def test_a_status_that_makes_no_sense_costs_nobody_else_his_own(nb: OvnSandbox) -> None:
    async def case(api: StandIn) -> None:
        async with leading(api, nb) as controller:
            await until("all is told", lambda: not controller.back.waiting)
            edit(api, "status", conditions=5)
            await until("it was tried", lambda: controller.back.sent.errors > 0)
            objects.put(api, objects.pod("shop", "late"))

            def annotated() -> bool:
                found = objects.look(api, "pods", "late", "shop") or {}
                return "ovn.kubernetes.io/ip_address" in found["metadata"].get("annotations", {})

            await until("others are told", annotated)
            assert "TypeError" in controller.back.sent.error

    told(case)


def test_who_asks_while_much_is_computed_waits_for_it(nb: OvnSandbox) -> None:
    async def case(api: StandIn) -> None:
        async with leading(api, nb) as controller:
            async with controller.computing:
                asked = [
                    asyncio.create_task(controller.sight.status({})),
                    asyncio.create_task(controller.sight.explain({"row": "web1.shop"})),
                ]
                await asyncio.sleep(0)
                assert not any(one.done() for one in asked)
            status, explained = await asyncio.gather(*asked)
            assert status["leads"] and explained["rows"]

    told(case)


def test_a_rule_that_cannot_be_read_holds_nobody_elses_rows(nb: OvnSandbox) -> None:
    def group(ports: tuple[int, int]) -> dict[str, Any]:
        rule = {
            "ipVersion": "ipv4", "protocol": "tcp", "priority": 1, "remoteType": "address",
            "remoteAddress": "0.0.0.0/0", "policy": "allow",
            "portRangeMin": ports[0], "portRangeMax": ports[1],
        }  # fmt: skip
        return {
            "apiVersion": "kubeovn.io/v1",
            "kind": "SecurityGroup",
            "metadata": {"name": "sg"},
            "spec": {"ingressRules": [rule]},
        }

    def matches() -> str:
        return nb.nbctl("--bare", "--columns=match", "find", "ACL", "action=allow-related")

    async def case(api: StandIn) -> None:
        objects.put(api, group((80, 90)))
        async with leading(api, nb):
            assert "tcp.dst >= 80" in matches()
        objects.put(api, group((90, 80)))
        objects.drop(api, "pods", "web1", "shop")
        async with leading(api, nb, "b") as controller:
            assert (await controller.sight.status({}))["unread"] == [
                "security-groups.kubeovn.io sg"
            ]
            await until("who went meanwhile is gone", lambda: "web1" not in addresses(nb))
            assert "tcp.dst >= 80" in matches()
            objects.put(api, group((100, 110)))
            await until("it is as written", lambda: "tcp.dst >= 100" in matches())
            assert "tcp.dst >= 80" not in matches()

    told(case)
