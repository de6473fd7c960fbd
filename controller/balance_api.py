"""The operation `rebalance` of the control socket: which thread should poll which queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cni.wire import CODE_BAD_REQUEST, RemoteError
from controller.rebalancer import OFF
from controller.server import Args, Handler

if TYPE_CHECKING:
    from controller.node import NodeDaemon


class BalanceApi:
    """Handlers over one daemon's measurements."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon

    def handlers(self) -> Mapping[str, Handler]:
        """Operation name to handler, for `controller.server.serve`."""
        return {"rebalance": self.rebalance}

    async def rebalance(self, args: Args) -> Args:
        """Loads as they are and as they would be; `apply` does it, `undo` takes our pins back."""
        daemon, order = self._daemon, args.get("order", "show")
        changed = False
        if order in ("apply", "undo"):
            if daemon.config.rebalance == OFF:
                raise RemoteError(
                    CODE_BAD_REQUEST,
                    'the file says [tuning] rebalance = "off"',
                    'write "advise" to see proposals and to give orders',
                )
            rebalancer = daemon.rebalancer
            changed = rebalancer.order() if order == "apply" else rebalancer.undo()
            if changed:
                daemon.loop.invalidate("plan")
                await daemon.loop.applied()
        elif order != "show":
            raise RemoteError(CODE_BAD_REQUEST, f"no such order: {order}", "show, apply or undo")
        return daemon.rebalancer.view(daemon.config) | {"changed": changed}
