"""The Kubernetes controller whole: objects in the API's stand-in, rows in a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from controller.config_kubernetes import KubernetesConfig
from controller.kubenet import Controller
from tests.apistandin.server import StandIn
from tests.apistandin.thread import running
from tests.labs import kubecluster as objects
from tests.labs import kubecontrol
from tests.labs.deaths import kubeconfig
from tests.labs.kubecontrol import until
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, northbound, wait_until

MILLRACE = str(Path(sys.executable).with_name("millrace"))


@pytest.fixture
def nb() -> Iterator[OvnSandbox]:
    """An empty northbound database."""
    with northbound() as box:
        yield box


@asynccontextmanager
async def controlling(
    api: StandIn, nb: OvnSandbox, identity: str = "a"
) -> AsyncIterator[Controller]:
    config = KubernetesConfig(nb.nb, namespace="kube-system", identity=identity)
    async with kubecontrol.controlling(api, config) as controller:
        yield controller


async def ready(controller: Controller) -> None:
    await until("it is settled", lambda: bool(controller.counts.settled_at))


def ports(nb: OvnSandbox) -> set[str]:
    return set(nb.nbctl("--bare", "--columns=name", "list", "Logical_Switch_Port").split())


def cluster(api: StandIn) -> None:
    objects.define(api)
    objects.put(api, objects.node("n1", "192.0.2.1"))
    objects.put(api, objects.namespace("shop"))
    objects.put(api, objects.subnet("shopnet", "10.30.0.0/16", "shop"))
    for number in range(5):
        objects.put(api, objects.pod("shop", f"web{number}"))


def annotation(api: StandIn, name: str, key: str = "ovn.kubernetes.io/ip_address") -> str:
    found = objects.look(api, "pods", name, "shop")
    return str((found or {}).get("metadata", {}).get("annotations", {}).get(key, ""))


def test_pods_become_ports_with_addresses_that_they_are_told(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            async with controlling(api, nb) as controller:
                await ready(controller)
                assert {f"web{number}.shop" for number in range(5)} <= ports(nb)
                await until(
                    "they are told", lambda: all(annotation(api, f"web{n}") for n in range(5))
                )
                address = annotation(api, "web3")
                assert address.startswith("10.30.")
                assert address in nb.nbctl("lsp-get-addresses", "web3.shop")
                objects.put(api, objects.pod("shop", "late"))
                await until("one more", lambda: "late.shop" in ports(nb))
                objects.drop(api, "pods", "web3", "shop")
                await until("one less", lambda: "web3.shop" not in ports(nb))
                status = await controller.sight.status({})
                assert status["leads"] and not status["refused"] and not status["failed_units"]
                explained = await controller.sight.explain({"row": "web1.shop"})
                [row] = cast("list[dict[str, list[str]]]", explained["rows"])
                assert "pods shop/web1" in row["behind"]
                assert "subnets.kubeovn.io shopnet" in row["behind"]

    asyncio.run(story())


def test_a_controller_that_begins_anew_writes_nothing_and_gives_nobody_another_address(
    nb: OvnSandbox,
) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            async with controlling(api, nb) as first:
                await ready(first)
                before = {name: nb.nbctl("lsp-get-addresses", name) for name in ports(nb)}
            async with controlling(api, nb, "b") as second:
                await ready(second)
                assert second.writer.written.rows == 0
                await until("all is told", lambda: not second.back.waiting)
                after = {name: nb.nbctl("lsp-get-addresses", name) for name in ports(nb)}
                assert before == after

    asyncio.run(story())


def test_one_of_two_controllers_works_and_the_other_takes_over(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            async with controlling(api, nb, "b") as second:
                async with controlling(api, nb, "a") as first:
                    await until("one leads", lambda: first.election.leads or second.election.leads)
                    leader, other = (first, second) if first.election.leads else (second, first)
                    await ready(leader)
                    assert other.writer.written.rows == 0 and not other.writer.active
                    if leader is second:
                        return
                await ready(second)
                objects.put(api, objects.pod("shop", "late"))
                await until("it works", lambda: "late.shop" in ports(nb))

    asyncio.run(story())


def test_kinds_that_the_api_does_not_know_are_waited_for_by_nobody(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with StandIn() as api:
            objects.put(api, objects.node("n1", "192.0.2.1"))
            objects.put(api, objects.pod("default", "web"))
            async with controlling(api, nb) as controller:
                await ready(controller)
                # The default subnet is there without any object.
                assert "web.default" in ports(nb)
                absent = [name for name, one in controller.sources.states() if one["absent"]]
                assert "subnets.kubeovn.io" in absent and "pods" not in absent

    asyncio.run(story())


def test_a_bad_object_says_so_and_harms_nobody(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with StandIn() as api:
            cluster(api)
            objects.put(api, objects.subnet("bad", "10.30.0.0/999"))
            taken = {"ovn.kubernetes.io/ip_address": "10.30.255.254"}
            objects.put(api, objects.pod("shop", "fixed1", "n1", **taken))
            async with controlling(api, nb) as controller:
                await ready(controller)
                assert "fixed1.shop" in ports(nb)
                objects.put(api, objects.pod("shop", "fixed2", "n1", **taken))
                events = api.cluster.store.of(("", "events"))

                def told(word: str) -> bool:
                    return any(word in str(one["message"]) for one in events.values())

                await until("the pod is told", lambda: told("10.30.255.254"))
                await until("the subnet too", lambda: told("cidrBlock"))

                def says() -> list[dict[str, str]]:
                    found = objects.look(api, "subnets.kubeovn.io", "bad") or {}
                    conditions: list[dict[str, str]] = found.get("status", {}).get("conditions", [])
                    return [one for one in conditions if one["type"] == "Error"]

                await until("its status says so", lambda: bool(says()))
                assert "cidrBlock" in says()[0]["message"]
                assert "fixed2.shop" not in ports(nb)

    asyncio.run(story())


def test_the_commands_say_what_it_does_would_do_and_why(nb: OvnSandbox, tmp_path: Path) -> None:
    def millrace(*words: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [MILLRACE, *words, "--json", "--config", str(file)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    with running() as api:
        api.do(cluster)
        (tmp_path / "kubeconfig").write_text(kubeconfig(api.url, "somebody"))
        file = tmp_path / "controller.toml"
        file.write_text(
            f'[controller]\nnb = "{nb.nb}"\nkubeconfig = "{tmp_path}/kubeconfig"\n'
            f'namespace = "kube-system"\nsocket = "{nb.directory}/c.sock"\n'
        )
        code, answer = millrace("controller", "diff")
        assert code == 4 and "Logical_Switch_Port web1.shop" in {
            one["row"] for one in answer["changes"]
        }
        assert ports(nb) == set()
        command = [MILLRACE, "controller", "run", "--config", str(file)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until("ports are there", lambda: "web1.shop" in ports(nb))
                wait_until(
                    "it is settled",
                    lambda: "settled" in millrace("controller", "status")[1]["started_s"],
                )
                code, answer = millrace("controller", "status")
                assert code == 0 and answer["leads"] and answer["problems"] == []
                code, answer = millrace("explain", "web1.shop")
                assert code == 0 and "pods shop/web1" in answer["rows"][0]["behind"]
                code, answer = millrace("controller", "diff")
                assert (code, answer["changes"]) == (0, [])
            finally:
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
