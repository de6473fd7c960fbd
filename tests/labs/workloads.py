"""Containers and guests, attached through the CNI plugin as a container runtime does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane.drivers import processes
from dataplane.drivers.processes import Daemon
from tests.labs import image
from tests.labs.netns import Namespace

ROOT = Path(__file__).resolve().parents[2]
POD_NAMESPACE = "demo"
CNI_VERSION = "1.1.0"


@dataclass(frozen=True, slots=True)
class CniCall:
    """One call of the plugin: its exit code and the object that it printed."""

    code: int
    answer: dict[str, Any]
    stderr: str


def plugin() -> list[str]:
    """The executable, as the runtime would run it."""
    installed = Path(sys.executable).with_name("millrace-cni")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "cni.plugin"]


def call_cni(
    command: str,
    *,
    socket: Path,
    container_id: str = "",
    netns: str = "",
    ifname: str = "eth0",
    pod: str = "",
    stdin: str | None = None,
    network: Mapping[str, object] | None = None,
) -> CniCall:
    """Run the plugin once. `stdin` replaces the network configuration; `network` adds to it."""
    config = {
        "cniVersion": CNI_VERSION,
        "name": "millrace",
        "type": "millrace-cni",
        "socket": str(socket),
        **(network or {}),
    }
    env = processes.clean_environment(
        CNI_COMMAND=command,
        CNI_CONTAINERID=container_id,
        CNI_NETNS=netns,
        CNI_IFNAME=ifname,
        CNI_PATH=str(ROOT),
        PYTHONPATH=str(ROOT),
        CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={POD_NAMESPACE};K8S_POD_NAME={pod}"
        f";K8S_POD_UID={container_id}",
    )
    done = subprocess.run(
        plugin(),
        input=json.dumps(config) if stdin is None else stdin,
        capture_output=True,
        text=True,
        env=env,
        timeout=90,
        check=False,
    )
    return CniCall(done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr)


class CniRefused(AssertionError):
    """The plugin answered with an error object where the lab needs a success."""


@dataclass(slots=True)
class Workload:
    """One interface of one pod. `socket` is the vhost-user one's, after `attach`."""

    pod: str
    container_id: str
    cni_socket: Path
    mode: str
    netns: Namespace | None = None
    result: dict[str, Any] = field(default_factory=dict)

    def attach(self) -> dict[str, Any]:
        """CNI ADD; the result object."""
        done = self.call("ADD")
        if done.code != 0:
            msg = f"ADD of {self.pod}: {json.dumps(done.answer)} {done.stderr}"
            raise CniRefused(msg)
        self.result = done.answer
        return done.answer

    def detach(self) -> None:
        """CNI DEL."""
        done = self.call("DEL")
        if done.code != 0:
            msg = f"DEL of {self.pod}: {json.dumps(done.answer)} {done.stderr}"
            raise CniRefused(msg)

    def call(self, command: str, **network: object) -> CniCall:
        """The plugin, for this workload."""
        return call_cni(
            command,
            socket=self.cni_socket,
            container_id=self.container_id,
            netns=str(self.netns.path) if self.netns else "",
            pod=self.pod,
            network={"mode": self.mode, **network},
        )

    @property
    def socket(self) -> Path:
        """The vhost-user socket that the result names."""
        for interface in self.result.get("interfaces", []):
            if interface.get("socketPath"):
                return Path(interface["socketPath"])
        msg = f"the result for {self.pod} names no socket: {self.result}"
        raise CniRefused(msg)

    @property
    def mac(self) -> str:
        """The workload's MAC, as the result has it."""
        return next(str(i["mac"]) for i in reversed(self.result["interfaces"]) if i.get("mac"))


@dataclass(frozen=True, slots=True)
class Server:
    """The lab's server in a namespace, on a TCP and UDP port."""

    name: str
    netns: Namespace
    port: int
    rundir: Path

    @property
    def daemon(self) -> Daemon:
        """How it is recognised."""
        binary = image.CACHE / "answerd"
        pidfile = self.rundir / f"answerd-{self.name}-{self.port}.pid"
        return Daemon(self.name, pidfile, f"{binary} {self.name} {self.port}")

    def start(self) -> None:
        """Start it unless it runs."""
        if processes.running_pid(self.daemon) is None:
            processes.spawn(
                [str(image.answerd()), self.name, str(self.port)],
                log=self.rundir / f"answerd-{self.name}.log",
                pidfile=self.daemon.pidfile,
                netns=self.netns.name,
            )

    def stop(self) -> None:
        """End it."""
        processes.stop(self.daemon, grace_s=3)
