"""After the tables are applied: what a change of services ends, flows and sockets, ends at once."""

from __future__ import annotations

import logging

from dataplane.drivers.bpfstate import BpfState
from dataplane.drivers.conntrack import Conntrack
from dataplane.drivers.socketends import SocketEnds
from dataplane.drivers.tidying import Tidying
from dataplane.plan.node import NodePlan
from dataplane.plan.servicebook import Changes
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)


class FollowUp:
    """Ends flows, and sockets that none would be given, by comparing the last plan with this one.

    Attributes:
        conntrack: the node's flows.
    """

    def __init__(self, bpf: BpfState) -> None:
        self.conntrack = Conntrack(bpf.maps)
        self._sockets = SocketEnds(bpf.maps)
        self._maps = bpf.maps
        self._tidying: Tidying | None = None
        self._before: NodePlan | None = None

    def close(self) -> None:
        """Let go of the programs."""
        if self._tidying is not None:
            self._tidying.close()
        self._sockets.close()
        self.conntrack.close()

    def tidy(self) -> int:
        """Clear what flows that are over left in conntrack's index; how many words it was.

        What fails here costs new flows some time, and nothing else: it is said in the log.
        """
        try:
            if self._tidying is None:
                self._tidying = Tidying(self._maps)
            return self._tidying.run()
        except DataplaneError as error:
            log.warning("tidying_failed error=%s; new flows clear what former ones left", error)
            return 0

    def follow(self, planned: NodePlan, changes: Changes | None = None) -> None:
        """Call it when the maps hold `planned`; `changes` are the rows that differ, if known.

        The first time, and after a failure, nobody knows what was before: all flows are looked at.
        """
        before, self._before = self._before, None
        try:
            ended = self.conntrack.follow(before, planned, changes)
            sockets = 0
            if planned.sockets and planned.differences(before) & {"sets", "vips"}:
                sockets = self._sockets.follow(tuple(planned.sockets), planned)
        except DataplaneError as error:
            log.warning("ending_failed error=%s; every flow is looked at in the next round", error)
            return
        self._before = planned
        if ended or sockets:
            log.info("ended flows=%d sockets=%d", ended, sockets)
