"""Manifests as `kubectl apply` brings them: the API's stand-in with our definitions, the controller
running in a thread, and a real northbound database behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from controller.config_kubernetes import KubernetesConfig
from tests.apistandin.probe import Api
from tests.apistandin.thread import Threaded
from tests.apistandin.thread import running as serving
from tests.labs import kubecluster
from tests.labs.applied import controlling, define
from tests.labs.ovnsandbox import wait_until


@dataclass
class Cluster:
    """The API and the controller beside a test."""

    api: Threaded

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

    def told(self) -> set[str]:
        """What users are told of their objects, in events."""
        return self.api.do(
            lambda api: {one["message"] for one in api.cluster.store.of(("", "events")).values()}
        )

    def ready(self, resource: str, name: str) -> None:
        """Wait until an object says that it is ready."""
        wait_until(f"{name} is ready", lambda: self.status(resource, name).get("ready"))

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Ask until it is so."""
        wait_until(what, condition)


@contextmanager
def applying(config: KubernetesConfig) -> Iterator[Cluster]:
    """An empty cluster that knows our definitions, and a controller that works."""
    with serving() as api:
        api.do(define)
        with controlling(api.url, config):
            yield Cluster(api)
