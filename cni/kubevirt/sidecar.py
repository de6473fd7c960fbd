"""The sidecar that KubeVirt starts in a virt-launcher pod for our network binding plugin.

A gRPC server on a unix socket in the directory that virt-launcher looks into. The protocol's
versions differ in Shutdown alone, so both are served by the same functions.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import grpc

from cni.kubevirt import domain, messages
from cni.kubevirt.messages import CloudInitParams, DomainParams, HookPoint, InfoResult, MessageError
from cni.kubevirt.vmi import (
    Device,
    InputError,
    Interface,
    parse_device_metadata,
    parse_network_info,
    parse_vmi,
)

log = logging.getLogger("millrace.kubevirt")

HOOKS = Path("/var/run/kubevirt-hooks")
"""Where virt-launcher looks for hooks' sockets (KubeVirt: HookSocketsSharedDirectory)."""

NETWORK_INFO = Path("/etc/podinfo/network-info")
"""The annotation kubevirt.io/network-info, with `downwardAPI: device-info` in the KubeVirt CR."""

METADATA = Path("/var/run/kubernetes.io/dra-device-attributes")
"""Where a DRA driver's device metadata is mounted."""

BINDING = "millrace"
BINDING_VARIABLE = "MILLRACE_BINDING"
"""The name that the plugin is registered by in the KubeVirt CR."""

SOCKETS = HOOKS / "millrace/vhost"
"""Where the node daemon mounts the pod's sockets into the pod (`controller.vhost_pods`). The device
information names them as the node sees them; in the pod they are here, on every node alike, which
migration needs."""

SOCKET = "millrace.sock"
NAME = "network-millrace-binding"

_PATIENCE_S = 50.0
"""Kubelet writes the annotation at its next look at the pod; virt-launcher gives up at 60 s."""

_MARGIN_S = 2.0
_EVERY_S = 0.2
_WORKERS = 4
_MAX_MESSAGE = 8 << 20
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Places:
    """What the sidecar reads, and where QEMU finds the sockets of the device information.

    `sockets` None: where the device information says.
    """

    network_info: Path = NETWORK_INFO
    metadata: Path = METADATA
    sockets: Path | None = SOCKETS


class Hook:
    """The calls, with bytes of messages in and out."""

    def __init__(self, binding: str, places: Places, patience_s: float = _PATIENCE_S) -> None:
        self.binding = binding
        self.places = places
        self.patience_s = patience_s
        self.shut = threading.Event()

    def info(self, _params: bytes, _context: grpc.ServicerContext) -> bytes:
        """Info: who we are and when to call."""
        points = (HookPoint(messages.ON_DEFINE_DOMAIN), HookPoint(messages.SHUTDOWN))
        return InfoResult(NAME, points, tuple(messages.CALLBACK_SERVICES)).encode()

    def on_define_domain(self, params: bytes, context: grpc.ServicerContext) -> bytes:
        """OnDefineDomain: the domain with our interfaces in it."""
        try:
            asked = DomainParams.decode(params)
            vmi = parse_vmi(asked.vmi, self.binding)
            devices = self._devices(vmi.interfaces, context)
            missing = [one.name for one in vmi.interfaces if one.name not in devices]
            if missing:
                _abort(context, grpc.StatusCode.FAILED_PRECONDITION, self._no_device(missing))
            made = domain.define(asked.domain_xml, vmi, devices)
        except (InputError, MessageError) as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            _abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
        log.info("VMI %s: %s", vmi.name, ", ".join(_told(devices)) or "no interface of ours")
        return messages.domain_result(made)

    def pre_cloud_init_iso(self, params: bytes, context: grpc.ServicerContext) -> bytes:
        """PreCloudInitIso: nothing to change; Info does not ask for it."""
        try:
            return CloudInitParams.decode(params).encode_result()
        except MessageError as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def shutdown(self, _params: bytes, _context: grpc.ServicerContext) -> bytes:
        """Shutdown: the VM is gone, and the container is to end."""
        self.shut.set()
        return b""

    def _devices(
        self, interfaces: Sequence[Interface], context: grpc.ServicerContext
    ) -> dict[str, Device]:
        """The devices by interface; of the downward API those that it has in time."""
        found = {
            one.name: parse_device_metadata(self._metadata(one), one.claim)
            for one in interfaces
            if one.claim is not None
        }
        wanted = frozenset(one.name for one in interfaces if one.claim is None)
        left = context.time_remaining()
        patience = self.patience_s if left is None else min(self.patience_s, left - _MARGIN_S)
        deadline = time.monotonic() + patience
        while wanted:
            info = parse_network_info(_read(self.places.network_info), wanted)
            if wanted <= info.keys() or time.monotonic() >= deadline or not context.is_active():
                return found | {name: self._inside(device) for name, device in info.items()}
            time.sleep(_EVERY_S)
        return found

    def _inside(self, device: Device) -> Device:
        """The device with its socket as QEMU's container sees it."""
        if self.places.sockets is None:
            return device
        return replace(device, path=str(self.places.sockets / Path(device.path).name))

    def _metadata(self, interface: Interface) -> bytes:
        """The file of a claim's request, of whichever driver."""
        claim = interface.claim
        assert claim is not None
        below = [
            self.places.metadata / kind / claim.name / claim.request
            for kind in ("resourceclaimtemplates", "resourceclaims")
        ]
        files = sorted(path for where in below for path in where.glob("*-metadata.json"))
        if not files:
            msg = (
                f"interface {interface.name!r}: no device metadata in {below[0]}: does the DRA"
                " driver write it, and does this container have the claim?"
            )
            raise InputError(msg)
        return b"".join(_read(path) for path in files)

    def _no_device(self, missing: Sequence[str]) -> str:
        return (
            f"no device information for {', '.join(missing)} in"
            f" {self.places.network_info}: register the plugin with `downwardAPI: device-info`,"
            ' and give the network\'s NetworkAttachmentDefinition "mode": "vhost-user" and'
            ' "capabilities": {"CNIDeviceInfoFile": true}'
        )


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> NoReturn:
    """End the call with an error; virt-launcher shows the text in the VMI's events."""
    log.warning("refused: %s", text)
    context.abort(code, f"millrace: {text}")
    raise AssertionError


def _told(devices: dict[str, Device]) -> list[str]:
    return [f"{name} on {one.path} mtu {one.mtu or 'default'}" for name, one in devices.items()]


def _read(path: Path) -> bytes:
    """A file's content; empty if it is not there yet."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return b""
    if len(data) > _MAX_FILE:
        msg = f"{path} has more than {_MAX_FILE} bytes"
        raise InputError(msg)
    return data


def make_server(hook: Hook) -> grpc.Server:
    """A server of the hook's calls, listening nowhere yet."""
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="hook"),
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
        ],
    )
    services: dict[str, dict[str, Callable[[bytes, grpc.ServicerContext], bytes]]] = {
        messages.INFO_SERVICE: {"Info": hook.info}
    }
    for version, service in messages.CALLBACK_SERVICES.items():
        services[service] = {
            messages.ON_DEFINE_DOMAIN: hook.on_define_domain,
            messages.PRE_CLOUD_INIT_ISO: hook.pre_cloud_init_iso,
        }
        if version != "v1alpha2":
            services[service][messages.SHUTDOWN] = hook.shutdown
    server.add_generic_rpc_handlers(
        [
            # Without serializers the handlers get and give bytes.
            grpc.method_handlers_generic_handler(
                service,
                {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()},
            )
            for service, calls in services.items()
        ]
    )
    return server


def serve(hook: Hook, socket: Path) -> int:
    """Serve until Shutdown or a signal; the exit code."""
    with contextlib.suppress(FileNotFoundError):
        # Left by a container of this pod that was killed.
        socket.unlink()
    server = make_server(hook)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        log.error("cannot listen on %s: %s; is the directory there and ours?", socket, error)  # noqa: TRY400 - the sentence says it all
        return 1
    server.start()
    log.info("serving %s for binding %r", socket, hook.binding)
    hook.shut.wait()
    server.stop(grace=1).wait()
    with contextlib.suppress(FileNotFoundError):
        socket.unlink()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar; KubeVirt gives no arguments, they are for tests and by-hand runs."""
    parser = argparse.ArgumentParser(prog="millrace-kubevirt-sidecar", description=__doc__)
    parser.add_argument("--binding", default=os.environ.get(BINDING_VARIABLE) or BINDING)
    parser.add_argument("--socket", type=Path, default=HOOKS / SOCKET)
    parser.add_argument("--network-info", type=Path, default=NETWORK_INFO)
    parser.add_argument("--metadata", type=Path, default=METADATA)
    parser.add_argument("--sockets", type=Path, default=SOCKETS)
    # virt-launcher's pod may give sidecars arguments of their own (--version and the like).
    args, _unknown = parser.parse_known_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    hook = Hook(args.binding, Places(args.network_info, args.metadata, args.sockets))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: hook.shut.set())
    return serve(hook, args.socket)


if __name__ == "__main__":
    raise SystemExit(main())
