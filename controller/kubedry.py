"""`millrace controller diff`: everything but the writing."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from controller.config_kubernetes import KubernetesConfig
from controller.kube.http import Client
from controller.kubenet import Controller, access
from controller.ovn.differ import Deed


async def difference(config: KubernetesConfig) -> dict[str, Any]:
    """What a controller that began now would change in OVN.

    It neither asks for the Lease nor for the database's lock, and writes nothing anywhere.
    """
    async with Client(access(config)) as client:
        controller = Controller(config, client)
        controller.writer.start()
        watching = asyncio.ensure_future(controller.sources.run())
        try:
            await controller.sources.synced()
            engine = await controller.compute()
            controller.writer.want(dict(engine.book.rows))
            controller.writer.begin(controller.hold(engine))
            deeds, refused = await controller.writer.difference()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await controller.writer.stop()
    return {
        "rows": len(engine.book.rows),
        "changes": [_shown(deed) for deed in deeds],
        "refused": {str(key): reason for key, reason in refused.items()},
        "problems": [
            {"object": str(ref), **asdict(one)}
            for ref, found in controller.back.all_problems().items()
            for one in found
        ],
    }


def _shown(deed: Deed) -> dict[str, Any]:
    columns = {
        name: [_plain(before), _plain(after)] for name, (before, after) in deed.columns.items()
    }
    return {"action": deed.action, "row": str(deed.key), "columns": columns}


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, frozenset) else value
