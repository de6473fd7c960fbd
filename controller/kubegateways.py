"""The cluster controller within the Kubernetes controller: gateway routers for as long as we lead.

Its rows are its own (`external_ids:owner`), and so are its clients and its lock; what it is told
comes from Nodes, Vpcs and Subnets instead of a file (`controller.network.gateways`).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from controller.central import Central
from dataplane.model.config import ClusterConfig

RETRY_S = 5.0

log = logging.getLogger(__name__)


class Gateways:
    """Tell it what is wanted, as often as you like; `stop` when somebody else leads."""

    def __init__(self) -> None:
        self._central: Central | None = None
        self._work: asyncio.Task[None] | None = None

    def tell(self, wanted: ClusterConfig | None) -> None:
        """Have the rows be what this says; None: there are no gateways of ours to make."""
        if wanted is None:
            return
        if self._central is None:
            self._central = Central(Path("gateways"), wanted)
            self._work = asyncio.create_task(self._keep(self._central))
            log.info("gateways_begun count=%d", len(wanted.gateways))
        elif wanted != self._central.cluster:
            self._central.take(wanted)
            log.info("gateways_changed count=%d", len(wanted.gateways))

    async def _keep(self, central: Central) -> None:
        """Work; begin anew with what is wanted by then if that ends by a defect."""
        while True:
            try:
                await central.keep()
            except Exception:
                log.exception("gateways_failed")
            await asyncio.sleep(RETRY_S)
            central = self._central = Central(Path("gateways"), central.cluster)

    def stop(self) -> None:
        """End without waiting; rows stay."""
        if self._work is not None:
            self._work.cancel()
        self._central, self._work = None, None

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps rows from being made."""
        central = self._central
        return tuple(map(str, central.plan.problems)) if central is not None else ()
