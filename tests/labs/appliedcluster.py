"""Manifests as `kubectl apply` brings them: the API's stand-in with our definitions, the controller
running in a thread, and a real northbound database behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from controller.config_kubernetes import KubernetesConfig
from controller.kube.auth import Access
from controller.kube.http import Client
from controller.kubenet import Controller
from tests.apistandin.probe import Api
from tests.apistandin.thread import Threaded, running
from tests.labs import kubecluster
from tests.labs.ovnsandbox import PATIENCE_S, wait_until

CRDS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds"


@dataclass
class Cluster:
    """The API and the controller beside a test."""

    api: Threaded
    controller: Controller
    loop: asyncio.AbstractEventLoop

    def apply(self, text: str) -> None:
        """Create or replace the objects of a manifest."""
        for one in yaml.safe_load_all(text):
            self.put(one)

    def put(self, obj: dict[str, Any]) -> None:
        """Create or replace one object."""
        self.api.do(partial(kubecluster.put, obj=obj))

    def tell(self, path: str, status: dict[str, Any]) -> None:
        """Write an object's status, as a kubelet does."""
        reply = Api(self.api.url).merge(f"{path}/status", {"status": status})
        assert reply.code == 200, reply.body

    def drop(self, resource: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        self.api.do(lambda api: kubecluster.drop(api, resource, name, namespace))

    def look(self, resource: str, name: str, namespace: str = "") -> dict[str, Any]:
        """An object as it is; empty: it is not there."""
        return self.api.do(lambda api: kubecluster.look(api, resource, name, namespace)) or {}

    def status(self, resource: str, name: str) -> dict[str, Any]:
        """What an object says of itself."""
        found: dict[str, Any] = self.look(f"{resource}.kubeovn.io", name).get("status", {})
        return found

    def annotation(self, name: str, namespace: str, key: str) -> str:
        """An annotation `ovn.kubernetes.io/<key>` of a pod."""
        pod = self.look("pods", name, namespace)
        annotations = pod.get("metadata", {}).get("annotations") or {}
        return str(annotations.get(f"ovn.kubernetes.io/{key}", ""))

    def problems(self) -> list[str]:
        """What the controller tells of all objects."""

        async def told() -> list[str]:
            found = self.controller.back.all_problems()
            return [f"{ref}: {one}" for ref, problems in found.items() for one in problems]

        return asyncio.run_coroutine_threadsafe(told(), self.loop).result(PATIENCE_S)

    def ready(self, resource: str, name: str) -> None:
        """Wait until an object says that it is ready."""
        wait_until(f"{name} is ready", lambda: self.status(resource, name).get("ready"))

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Ask until it is so."""
        wait_until(what, condition)


@contextmanager
def applying(config: KubernetesConfig) -> Iterator[Cluster]:
    """An empty cluster that knows our definitions, and a controller that works."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller")
    with running() as api:
        for path in sorted(CRDS.glob("*.yaml")):
            definition = yaml.safe_load(path.read_text(encoding="utf-8"))
            api.do(partial(kubecluster.put, obj=definition))
        others = [one for one in kubecluster.customs() if one.group != "kubeovn.io"]
        api.do(partial(kubecluster.define, resources=others))
        thread.start()
        begun: threading.Event = threading.Event()
        found: list[Controller] = []

        async def work() -> None:
            async with Client(Access(api.url)) as client:
                found.append(Controller(config, client))
                begun.set()
                await found[0].run()

        task = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            assert begun.wait(PATIENCE_S)
            yield Cluster(api, found[0], loop)
        finally:
            task.cancel()
            asyncio.run_coroutine_threadsafe(_ended(), loop).result(PATIENCE_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(PATIENCE_S)
            loop.close()


async def _ended() -> None:
    mine = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not mine]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
