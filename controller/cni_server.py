"""The daemon's side of the CNI calls: ADD, DEL, CHECK, STATUS, GC.

ADD makes the pod's link first, because OVS refuses a port whose device is missing and would retry
it without pause. Then OVS and OVN take the port while the pod's end is configured. Whatever
fails, everything is taken back before the error is answered; a runtime that gives up (its plugin
is killed, the connection closes) counts as a failure.

A crash of the daemon between making a link and recording its attachment leaves a link that
`sweep` finds at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

from cni import spec
from cni.wire import RemoteError
from controller import cni_asked, cni_request, device_info, iface_id, vm_ports
from controller.cni_host import DEFAULT_PATIENCE, AttachError, Host, Patience
from controller.cni_ipam import Ipam
from controller.cni_request import InterfaceRequest
from controller.completion import finish, in_thread
from controller.server import Handler
from controller.unlinking import Unlinking
from controller.vhost_dirs import VhostDirs
from dataplane.drivers import netns, podlink
from dataplane.model.devices import device_name
from dataplane.model.state import Attachment, PortKind
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)

Args = dict[str, object]


class CniServer:
    """The handlers of cni.sock, over one `Host`."""

    def __init__(
        self,
        host: Host,
        rundir: str | os.PathLike[str],
        default_mtu: int,
        patience: Patience = DEFAULT_PATIENCE,
        dirs: VhostDirs | None = None,
        template: str = "",
    ) -> None:
        self._host = host
        self._dirs = dirs or VhostDirs(rundir)
        self.default_mtu = default_mtu
        self.template = template
        self._patience = patience
        self._links = Unlinking()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def handlers(self) -> Mapping[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {
            "add": self.add,
            "del": self.delete,
            "check": self.check,
            "status": self.status,
            "gc": self.gc,
            **Ipam(self._host, self._patience).handlers(),
        }

    async def add(self, args: Args) -> Args:
        """Attach one interface; the CNI result."""
        request = cni_request.interface_request(args, self.template)
        if not request.pod or not request.namespace:
            raise RemoteError(spec.INVALID_ENVIRONMENT, "CNI_ARGS names no pod and namespace")
        self._require_ready(spec.TRY_AGAIN_LATER)
        attachment = await self._wanted(request)
        async with self._serial(
            f"container {request.container_id}",
            f"port {attachment.iface_id}",
            f"device {attachment.device}",
        ):
            await self._make_way(attachment)
            try:
                # On the trunk its row would be written, and the row is somebody else's.
                if not request.template:
                    attachment = await self._host.placed(attachment)
                await self._bring_up(attachment)
            except BaseException as error:
                await finish(self._undo(attachment))
                if isinstance(error, Exception):
                    raise _remote(error, attachment) from error
                raise
        log.info("cni_add port=%s device=%s", attachment.iface_id, attachment.device)
        return cni_request.result_of(attachment)

    async def delete(self, args: Args) -> Args:
        """Detach one interface. Nothing there is success; what was begun is finished."""
        request = cni_request.interface_request(args)
        async with self._serial(f"container {request.container_id}"):
            attachment = self._host.attachment(request.container_id, request.ifname)
            if attachment is None:
                # A runtime may not say any more whose the container was.
                async with self._serial(*(f"port {name}" for name in request.port_names)):
                    await finish(self._delete_unrecorded(request))
                return {}
            async with self._serial(f"port {attachment.iface_id}", f"device {attachment.device}"):
                await finish(self._take_down(attachment))
        log.info("cni_del port=%s device=%s", attachment.iface_id, attachment.device)
        return {}

    async def check(self, args: Args) -> Args:
        """Compare the record with the kernel, OVS, OVN and the runtime's copy of the result."""
        request = cni_request.interface_request(args)
        # Not in the middle of an ADD that may yet be taken back.
        async with self._serial(f"container {request.container_id}"):
            await self._check(request)
        return {}

    async def _check(self, request: InterfaceRequest) -> None:
        attachment = self._host.attachment(request.container_id, request.ifname)
        if attachment is None:
            msg = f"{request.ifname} of container {request.container_id} is not attached here"
            raise RemoteError(spec.UNKNOWN_CONTAINER, msg)
        port = self._host.logical_port(attachment.iface_id)
        problems = cni_request.differences(attachment, port, request.prev_result)
        try:
            if attachment.kind is PortKind.VETH:
                # The same namespace may have gone from the path that ADD was given.
                where = replace(attachment, netns=request.netns or attachment.netns)
                problems += await in_thread(podlink.check, where)
            else:
                problems += await in_thread(self._dirs.problems, _directory(attachment))
                if attachment.device_info:
                    problems += await in_thread(device_info.problems, attachment)
        except DataplaneError as error:
            problems.append(str(error))
        if not await self._host.wait_installed(attachment.device, self._patience.check):
            problems.append(f"OVN has not installed port {attachment.device} (ovn-installed)")
        if problems:
            msg = f"{attachment.iface_id} {attachment.ifname}: {problems[0]}"
            details = "; ".join([*problems[1:], "recreate the pod, or see `millrace ports`"])
            raise RemoteError(spec.NOT_AS_EXPECTED, msg, details)

    async def status(self, _args: Args) -> Args:
        """Whether ADD can be served."""
        limited = self._host.limited()
        self._require_ready(spec.LIMITED_CONNECTIVITY if limited else spec.NOT_AVAILABLE)
        return {}

    async def gc(self, args: Args) -> Args:
        """Detach what the runtime no longer has, of the network that it speaks of."""
        network = cni_request.network_of(args)
        valid = cni_request.valid_attachments(args)
        removed: list[str] = []
        errors: list[str] = []
        for stale in self._host.attachments():
            if stale.network != network or (stale.container_id, stale.ifname) in valid:
                continue
            async with self._serial(
                f"container {stale.container_id}",
                f"port {stale.iface_id}",
                f"device {stale.device}",
            ):
                # It may have been removed, or made anew, while this waited.
                if self._host.attachment(stale.container_id, stale.ifname) != stale:
                    continue
                try:
                    await finish(self._take_down(stale))
                    removed.append(stale.device)
                except RemoteError as error:
                    errors.append(str(error))
        log.info("cni_gc network=%s removed=%d failed=%d", network, len(removed), len(errors))
        if errors:
            msg = f"garbage of network {network} is left: {errors[0]}"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg, "; ".join(errors[1:]))
        return {"removed": removed}

    async def sweep(self) -> tuple[str, ...]:
        """Remove links and directories of ours that belong to no attachment; their names.

        For the daemon's start, after the attachments are loaded and before calls are served.

        Raises:
            DataplaneError, OSError: the kernel could not be asked, or refused.
        """
        swept: list[str] = []
        known = {attachment.device for attachment in self._host.attachments()}
        for device in await in_thread(podlink.orphans, known):
            async with self._serial(f"device {device}"):
                if all(one.device != device for one in self._host.attachments()):
                    await in_thread(podlink.remove, device)
                    swept.append(device)
        wanted = {
            _directory(one) for one in self._host.attachments() if one.kind is PortKind.VHOST_USER
        }
        swept += await in_thread(self._dirs.sweep, wanted)
        if swept:
            log.warning("cni_sweep removed=%s", ",".join(swept))
        return tuple(swept)

    def _require_ready(self, code: int) -> None:
        reason = self._host.ready()
        if reason is not None:
            msg = f"the node daemon is not ready: {reason}"
            raise RemoteError(code, msg, "`millrace status` shows what it waits for")

    async def _wanted(self, request: InterfaceRequest) -> Attachment:
        port = await vm_ports.first_known(
            self._host,
            request.port_names,
            self._patience.logical_port,
            partial(vm_ports.fits, request.kind, "" if request.template else request.pod),
        )
        name = request.iface_id if port is None else port.name
        if port is None:
            raise iface_id.absent(name)
        if reason := self._host.unfit(name, request.asked.ips):
            raise cni_asked.unfit(name, reason)
        if request.mtu and (small := self._host.too_big(name, request.mtu)):
            raise cni_asked.too_big(name, request.mtu, small)
        if error := cni_asked.not_yet(request.asked, port):
            raise error
        socket = ""
        if request.kind is PortKind.VHOST_USER:
            socket = self._dirs.socket(request.directory, request.ifname, request.socket_name)
        wanted = cni_request.attachment_of(request, port, self.default_mtu, socket)
        known = self._host.attachment(wanted.container_id, wanted.ifname)
        # What is attached already keeps its place, but for one whose row is somebody else's.
        if request.template:
            return wanted
        return wanted if known is None else replace(wanted, tag=known.tag)

    async def _make_way(self, attachment: Attachment) -> None:
        """Detach what stands where this attachment will be."""
        for other in self._host.attachments():
            same_interface = (other.container_id, other.ifname) == (
                attachment.container_id,
                attachment.ifname,
            )
            cni_asked.refuse_shared(attachment, other)
            if other == attachment or not (same_interface or other.iface_id == attachment.iface_id):
                continue
            if other.container_id == attachment.container_id and not same_interface:
                msg = f"logical port {other.iface_id!r} is already {other.ifname} of this container"
                details = "one logical port has one interface; remove one of the two networks"
                raise RemoteError(spec.PORT_CONFLICT, msg, details)
            # A pod's name is unique, so an earlier sandbox of it is dead, if not yet buried; and
            # what OVN says of an interface may have changed since it was attached.
            log.warning("cni_displaced port=%s device=%s", other.iface_id, other.device)
            await finish(self._take_down(other))

    async def _bring_up(self, attachment: Attachment) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                made: asyncio.Task[bool] | None = None
                if attachment.kind is PortKind.VETH:
                    made = group.create_task(in_thread(podlink.create, attachment))
                    group.create_task(_configured(made, attachment))
                else:
                    await in_thread(self._dirs.make, _directory(attachment))
                    if attachment.device_info:
                        group.create_task(in_thread(device_info.write, attachment))
                await self._take_port(attachment, made)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _take_port(self, attachment: Attachment, link: asyncio.Task[bool] | None) -> None:
        """Have OVS and OVN take the port, whose link is being made."""
        try:
            async with asyncio.timeout(self._patience.attach):
                await self._host.attach(attachment, link)
        except TimeoutError as error:
            msg = f"OVS has not taken port {attachment.device} in {self._patience.attach:g} s"
            details = "`millrace status` shows whether ovs-vswitchd and its database answer"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg, details) from error
        if not await self._host.wait_installed(attachment.device, self._patience.installed):
            msg = (
                f"OVN has not installed port {attachment.iface_id!r} ({attachment.device}) in "
                f"{self._patience.installed:g} s"
            )
            details = "is ovn-controller running here, and is the port bound to this chassis?"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg, details)

    async def _undo(self, attachment: Attachment) -> None:
        """Take down after a failure; that failure is what the runtime hears of."""
        try:
            await self._take_down(attachment)
        except RemoteError as error:
            log.error("cni_undo_failed device=%s error=%s", attachment.device, error)  # noqa: TRY400

    async def _take_down(self, attachment: Attachment) -> None:
        """Remove port and record, link, socket: all are tried, the first error is raised."""
        errors: list[Exception] = []
        # The port before its device: OVS complains of a port whose device is missing.
        try:
            await self._host.detach(attachment.container_id, attachment.ifname)
        except Exception as error:  # noqa: BLE001 - the link has to go in any case
            errors.append(error)
        try:
            if attachment.kind is PortKind.VETH:
                await self._links.remove(attachment.device)
            else:
                directory = _directory(attachment)
                others = any(
                    _directory(one) == directory and one.device != attachment.device
                    for one in self._host.attachments()
                    if one.kind is PortKind.VHOST_USER
                )
                if attachment.device_info:
                    await in_thread(device_info.remove, attachment)
                file = os.path.basename(attachment.socket)  # noqa: PTH119 - a name, no file
                await in_thread(
                    partial(self._dirs.remove, last=not others, file=file),
                    directory,
                    attachment.ifname,
                )
        except (DataplaneError, OSError) as error:
            errors.append(error)
        if errors:
            msg = f"port {attachment.device} of {attachment.iface_id} is not all gone: {errors[0]}"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg) from errors[0]

    async def _delete_unrecorded(self, request: InterfaceRequest) -> None:
        """Remove what a lost record may have left: names follow from container and interface."""
        device = device_name(PortKind.VETH, request.container_id, request.ifname)
        try:
            await self._host.detach(request.container_id, request.ifname)
            await self._links.remove(device)
            # The directory is the pod's: its next sandbox may be in it by now.
            if all(_directory(one) != request.directory for one in self._host.attachments()):
                await in_thread(self._dirs.remove, request.directory, request.ifname, last=False)
        except (DataplaneError, OSError) as error:
            msg = f"{request.ifname} of container {request.container_id} is not all gone: {error}"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg) from error

    @asynccontextmanager
    async def _serial(self, *names: str) -> AsyncIterator[None]:
        """Hold these locks. Always in the order container, port, device, so nobody waits in a ring.

        A lock lives as long as somebody holds or awaits it.
        """
        async with AsyncExitStack() as stack:
            for name in names:
                lock = self._locks.get(name)
                if lock is None:
                    lock = self._locks[name] = asyncio.Lock()
                await stack.enter_async_context(lock)
            yield


async def _configured(made: asyncio.Task[bool], attachment: Attachment) -> None:
    """Configure the pod's end of a link as soon as it is made."""
    fresh = await made
    await in_thread(podlink.configure, attachment, fresh=fresh)


def _directory(attachment: Attachment) -> str:
    """The name of an attachment's directory below `<rundir>/vhost`."""
    return attachment.pod_uid or attachment.container_id


def _remote(error: Exception, attachment: Attachment) -> RemoteError:
    """What the runtime is told of a failed ADD."""
    if isinstance(error, RemoteError):
        return error
    if isinstance(error, AttachError):
        msg = f"OVS rejected port {attachment.device} of {attachment.iface_id}: {error.reason}"
        return RemoteError(spec.PORT_REJECTED, msg, "`millrace ports` shows what is in quarantine")
    if isinstance(error, netns.NetnsError):
        return RemoteError(spec.INVALID_ENVIRONMENT, f"CNI_NETNS: {error}")
    if isinstance(error, DataplaneError):
        return RemoteError(spec.LINK_FAILED, str(error))
    if isinstance(error, OSError):
        return RemoteError(spec.IO_FAILURE, f"{attachment.iface_id}: {error}")
    log.error("cni_add_failed port=%s", attachment.iface_id, exc_info=error)
    msg = f"attaching {attachment.iface_id} failed inside the daemon: {error!r}"
    return RemoteError(spec.INTERNAL, msg, "this is a bug; the daemon's log has the traceback")
