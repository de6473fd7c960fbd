"""A server of one large list of pods and a stream of changes: the load of `perf kubecache`.

It answers as an API server does, from bytes that are made before anybody asks, in a process of its
own: what is measured is the client. The pods have the size of real ones (5.2 KB of JSON), of which
most is what a network controller never reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from aiohttp import web

PODS = "/api/v1/pods"
FIRST_REVISION = 1_000_000


def pod(number: int, revision: int, note: str = "") -> dict[str, Any]:
    """A pod as a Deployment makes it and a node runs it."""
    time_text = "2026-01-01T00:00:00Z"
    owner = f"app-{number // 20}-7d4b9c6f5"
    name = f"{owner}-{number:05x}"
    uid = f"6f1d2a30-0000-4000-8000-{number:012x}"
    managed: dict[str, Any] = {
        f"f:{part}": {f'k:{{"name":"item-{item}"}}': {".": {}, "f:value": {}, "f:name": {}}}
        for part in ("env", "volumeMounts", "ports", "volumes", "conditions", "tolerations")
        for item in range(1)
    }
    mounts = [{"mountPath": f"/var/run/data-{n}", "name": f"data-{n}"} for n in range(4)]
    env = [{"name": f"SETTING_{n}", "value": f"a value of some length {n}"} for n in range(25)]
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "generateName": f"{owner}-",
            "namespace": f"namespace-{number % 50}",
            "uid": uid,
            "resourceVersion": str(revision),
            "creationTimestamp": time_text,
            "labels": {"app": owner, "pod-template-hash": "7d4b9c6f5", "tier": f"t{number % 7}"},
            "annotations": {
                "ovn.kubernetes.io/ip_address": address,
                "ovn.kubernetes.io/logical_switch": f"subnet-{number % 100}",
                "millrace.example/made": note,
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": uid,
                    "controller": True, "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {
                    "manager": manager, "operation": "Update", "apiVersion": "v1",
                    "time": time_text, "fieldsType": "FieldsV1", "fieldsV1": managed,
                }
                for manager in ("kube-controller-manager", "kubelet")
            ],
        },
        "spec": {
            "nodeName": f"node-{number % 200}",
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
                for what in ("not-ready", "unreachable")
            ],
            "volumes": [{"name": f"data-{n}", "emptyDir": {}} for n in range(4)],
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example/team/application:v1.2.3",
                    "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "env": env,
                    "volumeMounts": mounts,
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    "terminationMessagePath": "/dev/termination-log",
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": f"192.0.2.{number % 200}",
            "startTime": time_text,
            "qosClass": "Burstable",
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": time_text}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "name": "main", "ready": True, "restartCount": 0, "started": True,
                    "image": "registry.example/team/application:v1.2.3",
                    "imageID": f"registry.example/team/application@sha256:{number:064x}",
                    "containerID": f"containerd://{number:064x}",
                    "state": {"running": {"startedAt": time_text}},
                }
            ],
        },
    }  # fmt: skip


class Load:
    """The pods, and the changes of them that a watch tells."""

    def __init__(self, pods: int, changes: int, per_second: int) -> None:
        self.items = [
            json.dumps(pod(number, FIRST_REVISION - pods + number), separators=(",", ":")).encode()
            for number in range(pods)
        ]
        self.changes, self.per_second = changes, per_second

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A page, or a watch."""
        if request.query.get("watch"):
            return await self._watch(request)
        start = int(request.query.get("continue") or 0)
        limit = int(request.query.get("limit") or 0) or len(self.items)
        end = start + limit
        token = str(end) if end < len(self.items) else ""
        metadata = json.dumps({"resourceVersion": str(FIRST_REVISION), "continue": token})
        head = f'{{"kind":"PodList","apiVersion":"v1","metadata":{metadata},"items":['.encode()
        body = head + b",".join(self.items[start:end]) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        revision = int(request.query["resourceVersion"])
        # Time for the client to settle, so that its list is not part of the first delays.
        await asyncio.sleep(1.0)
        began = time.monotonic()
        for number in range(self.changes):
            due = began + number / self.per_second
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            revision += 1
            # The monotonic clock is the same for all processes of a machine.
            obj = pod(number * 7 % len(self.items), revision, f"{time.monotonic():.6f}")
            line = json.dumps({"type": "MODIFIED", "object": obj}, separators=(",", ":"))
            await response.write(line.encode() + b"\n")
        await asyncio.Event().wait()
        return response


async def serve(pods: int, changes: int, per_second: int) -> None:
    """Serve until ended; the first line of the output is the URL."""
    load = Load(pods, changes, per_second)
    app = web.Application()
    app.router.add_get(PODS, load.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    size = sum(map(len, load.items))
    print(f"http://127.0.0.1:{runner.addresses[0][1]} {size}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:4])))
