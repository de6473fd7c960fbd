"""OpenFlow rules of ours: on the provider bridge that carries services, and nowhere else.

The table, highest priority first (ARCHITECTURE.md shows the same one):

====  =======================================  ==============  =================================
prio  match                                    actions         why
====  =======================================  ==============  =================================
200   in_port=svc0-ovs                         patch           svc0 speaks to the router only
110   in_port=patch, a local backend of a      svc0-ovs        its reply must be reversed before
      Local or DSR service as source                           it reaches the wire
100   in_port=patch, dl_dst=svc0's MAC         svc0-ovs        replies of SNATed flows
100   in_port=uplink, dl_dst=the router's MAC  patch           translated packets need no learning
0     any                                      NORMAL          OVS's own default rule, not ours
====  =======================================  ==============  =================================
"""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.model.addr import L4Addr, Mac, mac_of_address
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import Flow, FlowKey
from dataplane.model.state import Gateway

PRIORITY_FROM_SVC = 200
PRIORITY_LOCAL_REPLY = 110
PRIORITY_BY_MAC = 100


def patch_port(gateway: Gateway) -> str:
    """The provider bridge's end of the patch that ovn-controller makes for a localnet port."""
    return f"patch-{gateway.localnet_port}-to-{INTEGRATION_BRIDGE}"


def _to_mac(port: str, mac: Mac) -> str:
    return f'in_port="{port}",dl_dst={mac}'


def service_flows(
    bridge: str,
    uplink_port: str,
    svc_port: str,
    gateway: Gateway,
    replies: Iterable[L4Addr],
) -> dict[FlowKey, Flow]:
    """All rules of ours on one provider bridge. `replies`: see `dataplane.plan.served.Served`."""
    patch = patch_port(gateway)
    to_router, to_svc = Flow(f'output:"{patch}"'), Flow(f'output:"{svc_port}"')
    svc_mac = mac_of_address(gateway.service_address)
    flows = {
        FlowKey(bridge, PRIORITY_FROM_SVC, f'in_port="{svc_port}"'): to_router,
        FlowKey(bridge, PRIORITY_BY_MAC, _to_mac(patch, svc_mac)): to_svc,
        FlowKey(bridge, PRIORITY_BY_MAC, _to_mac(uplink_port, gateway.mac)): to_router,
    }
    for target in replies:
        protocol, source = target.protocol.name.lower(), "nw_src"
        if target.address.version == 6:
            protocol, source = f"{protocol}6", "ipv6_src"
        match = f'{protocol},in_port="{patch}",{source}={target.address},tp_src={target.port}'
        flows[FlowKey(bridge, PRIORITY_LOCAL_REPLY, match)] = to_svc
    return flows
