"""Host ports that pods were given by the runtime, as load balancers of this node alone.

They are no rows of OVN's, for no other node needs to know of them, but they are said in the same
words (docs/services.md), so that one translation serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.translate.ovn import LoadBalancer
from dataplane.model.names import FAST_PATH_KEY, KIND_KEY
from dataplane.model.state import Attachment

_DECLARED = {FAST_PATH_KEY: "true", KIND_KEY: "hostport"}
_EVERY_ADDRESS = {4: "0.0.0.0", 6: "::"}


def balancers(attachments: Iterable[Attachment]) -> Mapping[str, LoadBalancer]:
    """A row for each protocol of each attachment with host ports, by a name that no UUID has."""
    found: dict[str, LoadBalancer] = {}
    for attachment in attachments:
        for protocol in sorted({one.protocol for one in attachment.host_ports}):
            word = protocol.name.lower()
            found[f"hostport-{attachment.device}-{word}"] = LoadBalancer(
                name=f"hostport {attachment.iface_id} {word}",
                vips=dict(
                    _vip(attachment, version, one.port, one.to, str(one.host or ""))
                    for one in attachment.host_ports
                    if one.protocol is protocol
                    for version in (4, 6)
                    if _address(attachment, version)
                    and (one.host is None or one.host.version == version)
                ),
                protocol=word,
                external_ids=_DECLARED,
            )
    return found


def _vip(attachment: Attachment, version: int, port: int, to: int, host: str) -> tuple[str, str]:
    front, back = host or _EVERY_ADDRESS[version], _address(attachment, version)
    form = "{}:{}" if version == 4 else "[{}]:{}"
    return form.format(front, port), form.format(back, to)


def _address(attachment: Attachment, version: int) -> str:
    """The workload's first address of a family; "" for none."""
    return next((str(one.ip) for one in attachment.addresses if one.version == version), "")
