"""OpenFlow rules of ours: on the provider bridge that carries services, and nowhere else.

The table, highest priority first (ARCHITECTURE.md shows the same one):

====  =======================================  ==============  =================================
prio  match                                    actions         why
====  =======================================  ==============  =================================
200   in_port=svc0-ovs                         patch           svc0 speaks to the router only
120   in_port=patch, dl_dst=svc0's MAC, TCP    svc0-out        plain replies of SNATed flows, where
      or UDP to svc0's address, whole, untagged                there is an outlet
110   in_port=patch, a local backend of a      svc0-ovs        its reply must be reversed before
      Local or DSR service as source                           it reaches the wire
100   in_port=patch, dl_dst=svc0's MAC         svc0-ovs        replies of SNATed flows
100   in_port=uplink, dl_dst=the router's MAC  patch           translated packets need no learning
0     any                                      NORMAL          OVS's own default rule, not ours
====  =======================================  ==============  =================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dataplane.model.addr import L4Addr, Mac, mac_of_address
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import Flow, FlowKey
from dataplane.model.state import Gateway

PRIORITY_FROM_SVC = 200
PRIORITY_OUTLET = 120
PRIORITY_LOCAL_REPLY = 110
PRIORITY_BY_MAC = 100


def patch_port(gateway: Gateway) -> str:
    """The provider bridge's end of the patch that ovn-controller makes for a localnet port."""
    return f"patch-{gateway.localnet_port}-to-{INTEGRATION_BRIDGE}"


def _to_mac(port: str, mac: Mac) -> str:
    return f'in_port="{port}",dl_dst={mac}'


def _plain_replies(patch: str, svc_mac: Mac, gateway: Gateway) -> Iterator[str]:
    """Requests of clients behind OVN have svc0's MAC as well, and a VIP's address.

    The matches as a switch prints them. What has a tag could not be handed over by the outlet.
    """
    for protocol in ("tcp", "udp"):
        to = f'in_port="{patch}",vlan_tci=0x0000/0x1fff,dl_dst={svc_mac}'
        yield f"{protocol},{to},nw_dst={gateway.service_address},nw_frag=no"
        if gateway.service_address6 is not None:
            yield f"{protocol}6,{to},ipv6_dst={gateway.service_address6},nw_frag=no"


def service_flows(
    bridge: str,
    uplink_port: str,
    svc_port: str,
    gateway: Gateway,
    replies: Iterable[L4Addr],
    outlet: str | None = None,
) -> dict[FlowKey, Flow]:
    """All rules of ours on one provider bridge. `replies`: see `dataplane.plan.served.Served`.

    With an outlet the rules that lead to svc0 stay: what is no plain reply goes by them, and all
    does while the outlet's port is not there.
    """
    patch = patch_port(gateway)
    to_router, to_svc = Flow(f'output:"{patch}"'), Flow(f'output:"{svc_port}"')
    svc_mac = mac_of_address(gateway.service_address)
    flows = {
        FlowKey(bridge, PRIORITY_FROM_SVC, f'in_port="{svc_port}"'): to_router,
        FlowKey(bridge, PRIORITY_BY_MAC, _to_mac(patch, svc_mac)): to_svc,
        FlowKey(bridge, PRIORITY_BY_MAC, _to_mac(uplink_port, gateway.mac)): to_router,
    }
    if outlet is not None:
        for match in _plain_replies(patch, svc_mac, gateway):
            flows[FlowKey(bridge, PRIORITY_OUTLET, match)] = Flow(f'output:"{outlet}"')
    for target in replies:
        protocol, source = target.protocol.name.lower(), "nw_src"
        if target.address.version == 6:
            protocol, source = f"{protocol}6", "ipv6_src"
        match = f'{protocol},in_port="{patch}",{source}={target.address},tp_src={target.port}'
        flows[FlowKey(bridge, PRIORITY_LOCAL_REPLY, match)] = to_svc
    return flows
