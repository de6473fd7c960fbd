"""The table [vhost] of a node's TOML file: whose QEMU makes the vhost-user sockets."""

from __future__ import annotations

import re

from controller.config_reader import TableReader
from controller.config_values import path
from dataplane.model.config import VhostConfig

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,10}")
_RULE = "it is a name of up to 32 small letters, digits, dashes, underscores, or a number"


def vhost_config(root: TableReader) -> VhostConfig:
    """The table's values; whether the names are known here is `check_machine`'s to say."""
    table = root.table("vhost")
    found = {
        key: table.text(key, example="qemu", pattern=_NAME, rule=_RULE) if table.has(key) else ""
        for key in ("user", "group")
    }
    kubelet = path(table, "kubelet", VhostConfig().kubelet)
    table.finish()
    return VhostConfig(**found, kubelet=kubelet)
