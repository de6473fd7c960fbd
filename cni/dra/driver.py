"""The DRA driver of a node: kubelet asks it to prepare claims, and it asks the node daemon by CNI.

Two gRPC services: kubelet's registration of plugins, and DRAPlugin v1 with its v1beta1. A claim's
requests become vhost-user attachments (`container_id` is the claim's uid), so OVN describes them as
any other; directory and metadata come into the pod's containers by CDI. What was prepared is on
disk, and kubelet repeats what it has no answer for: nothing is kept in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from cni import plugin
from cni.dra import claims
from cni.dra.api import Api
from cni.dra.api import server as server_of
from cni.dra.claims import DRIVER, Claim, ClaimError, Json, Port
from cni.kubevirt.messages import MessageError, bytes_fields, delimited, element

log = logging.getLogger("millrace.dra")

VERSIONS = {
    "v1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
    "v1beta1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
}
REGISTRATION = "pluginregistration.Registration"
NETWORK = "dra"
IFNAME = "vhost"
"""Of the first request; its socket is vhost.sock, as dra-driver-ovsdpdk has it."""

_RECORD = "claim.json"

Ask = Callable[[str, Json], Json]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the driver keeps its files."""

    kubelet: Path = Path("/var/lib/kubelet")
    cdi: Path = Path("/var/run/cdi")

    @property
    def plugin(self) -> Path:
        """The driver's own directory."""
        return self.kubelet / "plugins" / DRIVER

    @property
    def registration(self) -> Path:
        """Where kubelet finds it."""
        return self.kubelet / "plugins_registry" / f"{DRIVER}-reg.sock"

    def claim(self, uid: str) -> Path:
        """What is kept of a claim."""
        return self.plugin / "claims" / uid

    def spec(self, uid: str) -> Path:
        """A claim's CDI specification."""
        return self.cdi / f"{DRIVER}-{uid}.json"


class Driver:
    """Prepares claims. `get` reads from the API; `ask` is one CNI command to the node daemon."""

    def __init__(self, places: Places, get: Callable[[str], object], ask: Ask) -> None:
        self.places = places
        self._get = get
        self._ask = ask
        self._lock = threading.Lock()

    def prepare(self, namespace: str, name: str, uid: str) -> Sequence[tuple[str, str, str, str]]:
        """Request, pool, device and CDI device of each request; again gives the same.

        Raises:
            ClaimError, OSError: it cannot be done now; nothing new is left but what
                `unprepare` or a repetition takes up.
        """
        path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"
        claim = claims.parse_claim(self._get(path))
        if claim.uid != uid:
            msg = f"claim {namespace}/{name} is another one by now: its uid is {claim.uid}"
            raise ClaimError(msg)
        with self._lock:
            return self._prepare(claim)

    def _prepare(self, claim: Claim) -> Sequence[tuple[str, str, str, str]]:
        kept = self.places.claim(claim.uid)
        kept.mkdir(mode=0o755, parents=True, exist_ok=True)
        ifnames = [f"{IFNAME}{number or ''}" for number in range(len(claim.requests))]
        # Before the first port is made: what is recorded is taken away again.
        _write(kept / _RECORD, {"ifnames": ifnames})
        ports = [
            self._attach(claim, request, ifname)
            for request, ifname in zip(claim.requests, ifnames, strict=True)
        ]
        files = {}
        for port in ports:
            file = kept / f"{port.request.name}-metadata.json"
            _write_metadata(file, claim, port)
            files[port.request.name] = str(file)
        self.places.cdi.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(self.places.spec(claim.uid), claims.cdi_spec(claim, ports, files))
        log.info("prepared claim %s/%s for pod %s", claim.namespace, claim.name, claim.pod)
        return [(r.name, r.pool, r.device, claims.cdi_id(claim, r.name)) for r in claim.requests]

    def _attach(self, claim: Claim, request: claims.Request, ifname: str) -> Port:
        answer = self._ask(
            "ADD",
            {
                "container_id": claim.uid,
                "ifname": ifname,
                "pod": claim.pod,
                "namespace": claim.namespace,
                "provider": request.provider,
            },
        )
        interfaces = answer.get("interfaces")
        for one in interfaces if isinstance(interfaces, list) else []:
            if isinstance(one, dict) and isinstance(one.get("socketPath"), str):
                return Port(request, ifname, one["socketPath"], int(one.get("mtu") or 0))
        msg = f"the node daemon names no socket for {claim.pod} in {claim.namespace}: {answer}"
        raise ClaimError(msg)

    def unprepare(self, uid: str) -> None:
        """Take everything of a claim away; nothing there is success.

        Raises:
            ClaimError, OSError: it cannot be done now; the record stays.
        """
        if claims.is_uid(uid):
            with self._lock:
                self._unprepare(uid)
        else:
            msg = f"kubelet names a claim {uid!r}"
            raise ClaimError(msg)

    def _unprepare(self, uid: str) -> None:
        kept = self.places.claim(uid)
        self.places.spec(uid).unlink(missing_ok=True)
        try:
            ifnames = json.loads((kept / _RECORD).read_text(encoding="utf-8"))["ifnames"]
        except FileNotFoundError:
            ifnames = []
        for ifname in ifnames:
            self._ask("DEL", {"container_id": uid, "ifname": ifname})
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(kept)


def _write_metadata(file: Path, claim: Claim, port: Port) -> None:
    """Write it if it says something else; then under a higher generation (KEP-5304)."""
    generation = 0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(file.read_text(encoding="utf-8"))
        generation = int(before["metadata"]["generation"])
        if before == claims.metadata(claim, port, generation):
            return
    # In place: it may be mounted, and a mount keeps the file that it was made of.
    document = json.dumps(claims.metadata(claim, port, generation + 1)) + "\n"
    file.write_text(document, encoding="utf-8")
    file.chmod(0o644)


def _write(path: Path, obj: Json) -> None:
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(json.dumps(obj, indent=1) + "\n", encoding="utf-8")
    partial.chmod(0o644)
    partial.replace(path)


def ask_daemon(socket: str) -> Ask:
    """CNI commands to the daemon at `socket`, as the plugin puts them."""

    def ask(command: str, args: Json) -> Json:
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": str(args["container_id"]),
            "CNI_IFNAME": str(args["ifname"]),
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": "",
        }
        network: Json = {
            "cniVersion": "1.1.0", "name": NETWORK, "type": "millrace-cni", "socket": socket,
            "mode": "vhost-user",
        }  # fmt: skip
        if args.get("pod"):
            pod, namespace = args["pod"], args["namespace"]
            env["CNI_ARGS"] = f"K8S_POD_NAME={pod};K8S_POD_NAMESPACE={namespace}"
        if args.get("provider"):
            network["provider"] = args["provider"]
        code, obj = plugin.answer(env, lambda: json.dumps(network).encode())
        if code != 0:
            told = obj or {}
            msg = f"{command} of {args.get('pod') or args['container_id']}: {told.get('msg')}"
            raise ClaimError(f"{msg}; {told['details']}" if told.get("details") else msg)
        return obj or {}

    return ask


def make_servers(driver: Driver) -> tuple[grpc.Server, grpc.Server]:
    """The plugin's server and the registration's, listening nowhere yet."""
    endpoint = driver.places.plugin / "dra.sock"

    def get_info(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        said = ((1, "DRAPlugin"), (2, DRIVER), (3, str(endpoint)), *((4, v) for v in VERSIONS))
        return b"".join(delimited(field, text.encode()) for field, text in said)

    def notify(data: bytes, _context: grpc.ServicerContext) -> bytes:
        told = dict(bytes_fields(data)).get(2, b"").decode(errors="replace")
        log.info("kubelet %s", f"refuses the driver: {told}" if told else "has the driver")
        return b""

    def each(data: bytes, act: Callable[[dict[int, str]], bytes]) -> bytes:
        """A response with one entry for each claim of a request."""
        entries = []
        for field, claim in bytes_fields(data):
            if field != 1:
                continue
            names = {n: value.decode(errors="replace") for n, value in bytes_fields(claim)}
            entries.append(element(1, delimited(1, names.get(2, "").encode()) + act(names)))
        return b"".join(entries)

    def prepared(names: dict[int, str]) -> bytes:
        try:
            found = driver.prepare(names.get(1, ""), names.get(3, ""), names.get(2, ""))
        except (ClaimError, OSError) as error:
            log.warning("prepare %s/%s: %s", names.get(1), names.get(3), error)
            return delimited(2, delimited(2, f"millrace: {error}".encode()))
        devices = (
            b"".join(delimited(n, part.encode()) for n, part in enumerate(parts, start=1))
            for parts in found
        )
        return delimited(2, b"".join(element(1, device) for device in devices))

    def unprepared(names: dict[int, str]) -> bytes:
        try:
            driver.unprepare(names.get(2, ""))
        except (ClaimError, OSError) as error:
            log.warning("unprepare %s: %s", names.get(2), error)
            return delimited(2, delimited(1, f"millrace: {error}".encode()))
        return b""

    def handled(act: Callable[[dict[int, str]], bytes]) -> grpc.RpcMethodHandler:
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return each(data, act)
            except MessageError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"millrace: {error}")
                raise

        return grpc.unary_unary_rpc_method_handler(call)

    calls = {
        "NodePrepareResources": handled(prepared), "NodeUnprepareResources": handled(unprepared),
    }  # fmt: skip
    registration = {
        "GetInfo": grpc.unary_unary_rpc_method_handler(get_info),
        "NotifyRegistrationStatus": grpc.unary_unary_rpc_method_handler(notify),
    }
    servers = (
        _server(dict.fromkeys(VERSIONS.values(), calls)),
        _server({REGISTRATION: registration}),
    )
    for server, path in zip(servers, (endpoint, driver.places.registration), strict=True):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
    return servers


def _server(services: dict[str, dict[str, grpc.RpcMethodHandler]]) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="dra"))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, calls) for name, calls in services.items()]
    )
    return server


def main(argv: Sequence[str] | None = None) -> int:
    """Run the driver on a node."""
    parser = argparse.ArgumentParser(prog="millrace-dra", description=__doc__)
    parser.add_argument("--node", default=os.environ.get("NODE", ""), help="the node's name")
    parser.add_argument("--socket", default="/run/millrace/cni.sock", help="the node daemon's")
    parser.add_argument("--api", default=server_of(os.environ), help="the Kubernetes API")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    api = Api(args.api)
    driver = Driver(Places(), api.get, ask_daemon(args.socket))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    servers = make_servers(driver)
    for server in servers:
        server.start()
    try:
        while not ended.is_set():
            try:
                api.publish(args.node)
                wait_s = 60.0
            except ClaimError as error:
                log.warning("resource slice: %s", error)
                wait_s = 5.0
            ended.wait(wait_s)
    finally:
        driver.places.registration.unlink(missing_ok=True)
        for server in servers:
            server.stop(grace=5).wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
