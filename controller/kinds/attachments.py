"""NetworkAttachmentDefinitions: which provider a further network of a pod has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.kinds.reading import Form, Reading
from controller.kube.resources import custom
from controller.kube.structs import Meta
from controller.network.view import Kind

RESOURCE = custom(
    "k8s.cni.cncf.io",
    "v1",
    "network-attachment-definitions",
    "NetworkAttachmentDefinition",
    namespaced=True,
)
PLUGINS = ("kube-ovn", "millrace-cni")
"""Types of plugins whose networks are OVN's, or whose addresses are."""


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """A definition.

    Attributes:
        provider: empty: it is none of ours.
        logical: it is a port of OVN; otherwise only its address comes from here (a macvlan, say).
    """

    provider: str = ""
    logical: bool = False


def _read(meta: Meta, spec: Reading, _: Reading) -> NetworkAttachment:
    text = spec.text("config")
    if not text:
        return NetworkAttachment()
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        spec.fail("config", f"it is no JSON: {error}", "correct it, or Multus will refuse it, too")
    if not isinstance(config, dict):
        spec.fail("config", "it is not a JSON object", "write a network configuration")
    default = f"{meta.name}.{meta.namespace}"
    plugins = config.get("plugins")
    for plugin in plugins if isinstance(plugins, list) else (config,):
        if found := _of_plugin(plugin, default):
            return found
    return NetworkAttachment()


def _of_plugin(plugin: object, default: str) -> NetworkAttachment | None:
    if not isinstance(plugin, dict):
        return None
    if plugin.get("type") in PLUGINS:
        return NetworkAttachment(_provider(plugin) or f"{default}.ovn", logical=True)
    ipam = plugin.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type") in PLUGINS:
        return NetworkAttachment(_provider(ipam) or default)
    return None


def _provider(config: Mapping[str, Any]) -> str:
    value = config.get("provider")
    return value.strip() if isinstance(value, str) else ""


ATTACHMENT = Form("NetworkAttachmentDefinition", _read)

ATTACHMENTS: Kind[NetworkAttachment] = Kind("network-attachment-definitions")
"""Keys are `Key(namespace, name)`."""
