"""The table [containers] of a node's TOML file: how containers reach OVS."""

from __future__ import annotations

from controller.config_reader import TableReader
from dataplane.model.config import Attach, ContainersConfig

MAX_QUEUES = 16


def containers_config(root: TableReader) -> ContainersConfig:
    """The table's values; `queues` 0 is computed."""
    table = root.table("containers")
    attach = table.choice("attach", Attach, default=Attach.TRUNK)
    queues = table.integer("queues", 1, MAX_QUEUES) if table.has("queues") else 0
    table.finish()
    return ContainersConfig(attach, queues)
