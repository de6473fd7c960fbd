"""The daemon's side of the plugin as another plugin's IPAM: addresses of OVN's that it shall set.

The cluster controller writes such an interface a port that nobody can claim, and the node reads its
addresses and routes there. Nothing is recorded and nothing is to be given back: the port, and the
address, go with the pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cni import spec
from cni.wire import RemoteError
from controller import cni_asked, cni_request, cni_routes, vm_ports
from controller.cni_host import Host, Patience
from controller.cni_request import InterfaceRequest
from controller.completion import in_thread
from controller.server import Handler
from dataplane.drivers import netns, podroutes
from dataplane.model.state import LogicalPort
from dataplane.ports import DataplaneError

Args = dict[str, object]


class Ipam:
    """The handlers of the IPAM operations, over one `Host`."""

    def __init__(self, host: Host, patience: Patience) -> None:
        self._host = host
        self._patience = patience

    def handlers(self) -> Mapping[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {"ipam_add": self.add, "ipam_check": self.check}

    async def add(self, args: Args) -> Args:
        """Addresses and routes of one interface, in the form of CNI 1.1."""
        request = cni_request.interface_request(args)
        if not request.pod or not request.namespace:
            raise RemoteError(spec.INVALID_ENVIRONMENT, "CNI_ARGS names no pod and namespace")
        port = await self._port(request, self._patience.logical_port)
        if port is None and (reason := self._host.ready()):
            msg = f"the node daemon is not ready: {reason}"
            raise RemoteError(
                spec.TRY_AGAIN_LATER, msg, "`millrace status` shows what it waits for"
            )
        if port is None or not port.addresses:
            msg = f"OVN has no address for {request.iface_id!r}"
            details = f"has a Subnet the provider {request.provider!r}? The pod's events say more"
            raise RemoteError(spec.TRY_AGAIN_LATER, msg, details)
        if reason := self._host.unfit(port.name, request.asked.ips):
            raise cni_asked.unfit(port.name, reason)
        if error := cni_asked.not_yet(request.asked, port):
            raise error
        found = cni_routes.ways(port, request.provider, request.ifname, request.routes)
        if (versions := cni_routes.taken(found.routes)) and request.netns:
            # A plugin that sets one where there is one already fails.
            try:
                await in_thread(podroutes.clear_defaults, request.netns, versions)
            except netns.NetnsError as error:
                raise RemoteError(spec.INVALID_ENVIRONMENT, f"CNI_NETNS: {error}") from error
            except DataplaneError as error:
                raise RemoteError(spec.LINK_FAILED, str(error)) from error
        return {
            "ips": cni_routes.ip_objects(port.addresses, port.gateway, port.gateway6),
            "routes": cni_routes.route_objects((*found.defaults(), *found.routes)),
        }

    async def check(self, args: Args) -> Args:
        """Whether the runtime's copy of the result has the addresses that OVN has."""
        request = cni_request.interface_request(args)
        port = await self._port(request, 0.0)
        if port is None:
            msg = f"OVN has no address for {request.iface_id!r} any more"
            raise RemoteError(spec.UNKNOWN_CONTAINER, msg)
        ips = (request.prev_result or {}).get("ips")
        listed = ips if isinstance(ips, list) else []
        claimed = {one.get("address") for one in listed if isinstance(one, dict)}
        lacking = [str(one) for one in port.addresses if str(one) not in claimed]
        if lacking:
            msg = f"prevResult lacks {', '.join(lacking)} of {port.name}"
            raise RemoteError(spec.NOT_AS_EXPECTED, msg, "recreate the pod")
        return {}

    async def _port(self, request: InterfaceRequest, timeout: float) -> LogicalPort | None:
        serves = partial(vm_ports.fits, request.kind, request.pod)
        return await vm_ports.first_known(self._host, request.port_names, timeout, serves)
