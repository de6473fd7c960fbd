"""Which of several controllers works: the holder of a Lease.

Two things keep a former holder from writing. It stops by its own clock, before anybody else may
take the lease; and each change of hands raises `epoch`, which it can put beside what it writes, so
that a late write of an earlier epoch can be told from the present one.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.kube.errors import ApiError, KubeError
from controller.kube.http import Client
from controller.kube.pacing import Clock, RealClock
from controller.kube.resources import LEASES, Key
from controller.kube.structs import Lease

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations [s]; the defaults are those of Kubernetes' own controllers.

    Raises:
        ValueError: a holder could still think it leads when another takes over.
    """

    lease: float = 15.0
    """How long others leave a lease alone whose holder is silent."""
    renew: float = 10.0
    """How long after its last renewal a holder goes on to lead."""
    retry: float = 2.0
    """How often the lease is renewed, or looked at."""

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew < self.lease:
            msg = (
                f"lease timing: retry {self.retry} s < renew {self.renew} s < lease {self.lease} s "
                "does not hold; choose it so"
            )
            raise ValueError(msg)


def wall_clock() -> datetime.datetime:
    """The time that is written into leases; nobody compares it with a clock of his own."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(slots=True)
class Election:
    """One candidate for a lease.

    Attributes:
        identity: who we are, different for each process (the pod's name and a random part).
        changed: is called whenever leadership is won or lost.
    """

    client: Client
    key: Key
    identity: str
    timing: Timing = field(default_factory=Timing)
    clock: Clock = field(default_factory=RealClock)
    random: random.Random = field(default_factory=random.Random)
    now: Callable[[], datetime.datetime] = wall_clock
    changed: Callable[[bool], None] = lambda _leads: None
    error: str = ""
    """Why the lease cannot be renewed or read now; empty if it can."""
    holder: str = ""
    """Who was seen to hold it last."""
    epoch: int = 0
    """How often the lease changed hands until we got it; grows with every holder."""
    _until: float = float("-inf")
    _said: bool = False
    _seen: str = ""
    _seen_at: float = float("-inf")
    _silent_s: float = 0.0

    @property
    def leads(self) -> bool:
        """Whether we lead now: to be asked before each write, not once."""
        return self.clock.monotonic() < self._until

    async def run(self) -> None:
        """Try to lead for ever; gives the lease up when cancelled."""
        try:
            while True:
                await self.step()
                # Jitter keeps candidates from meeting at the same instant again and again.
                await self.clock.sleep(self.timing.retry * self.random.uniform(1.0, 1.2))
        finally:
            await asyncio.shield(self.release())

    async def step(self) -> bool:
        """Take or renew the lease if that is allowed; whether we lead after it."""
        try:
            async with asyncio.timeout(self.timing.renew):
                await self._try()
            self.error = ""
        except TimeoutError:
            self.error = f"lease {self.key}: no answer within {self.timing.renew:.0f} s"
        except KubeError as problem:
            # A conflict says that another was faster, which the next look will show.
            conflict = isinstance(problem, ApiError) and problem.is_conflict
            self.error = "" if conflict else str(problem)
        if self.error:
            log.warning("%s", self.error)
        self._tell()
        return self.leads

    async def release(self) -> None:
        """Let the lease go, so that the next one need not wait. A failure only costs time."""
        was_leading = self.leads
        self._until = float("-inf")
        self._tell()
        if not was_leading:
            return
        try:
            lease = await self.client.get(LEASES, self.key)
            if lease.spec.holder_identity != self.identity:
                return
            spec = msgspec.structs.replace(
                lease.spec, holder_identity=None, lease_duration_seconds=1, renew_time=self._stamp()
            )
            await self._put(lease, spec)
        except KubeError as problem:
            log.warning("lease %s is not released, others wait for it: %s", self.key, problem)

    async def _try(self) -> None:
        asked = self.clock.monotonic()
        try:
            lease = await self.client.get(LEASES, self.key)
        except ApiError as problem:
            if problem.code != 404:
                raise
            await self.client.create(LEASES, self.key.namespace, self._body(self._spec(None), ""))
            self._won(asked, 0)
            return
        self._observe(lease)
        spec = lease.spec
        mine = spec.holder_identity == self.identity
        if not mine and spec.holder_identity and asked < self._seen_at + self._silent_s:
            # Somebody else's: whatever we believed ends here.
            self._until = float("-inf")
            return
        wanted = self._spec(lease)
        await self._put(lease, wanted)
        self._won(asked, wanted.lease_transitions or 0)

    def _observe(self, lease: Lease) -> None:
        """Note by our own clock when the lease was seen to change; theirs may be wrong."""
        self.holder = lease.spec.holder_identity or ""
        if lease.metadata.resource_version != self._seen:
            self._seen = lease.metadata.resource_version
            self._seen_at = self.clock.monotonic()
            self._silent_s = float(lease.spec.lease_duration_seconds or self.timing.lease)

    def _won(self, asked: float, epoch: int) -> None:
        # From when we asked: the answer may have been long on its way.
        self._until = asked + self.timing.renew
        self.holder, self.epoch = self.identity, epoch

    def _spec(self, lease: Lease | None) -> Any:
        from_spec = lease.spec if lease else None
        mine = from_spec is not None and from_spec.holder_identity == self.identity
        transitions = (from_spec.lease_transitions or 0) if from_spec else 0
        stamp = self._stamp()
        return msgspec.structs.replace(
            from_spec or Lease().spec,
            holder_identity=self.identity,
            lease_duration_seconds=int(self.timing.lease) or 1,
            acquire_time=from_spec.acquire_time if mine and from_spec else stamp,
            renew_time=stamp,
            lease_transitions=transitions if mine or lease is None else transitions + 1,
        )

    async def _put(self, lease: Lease, spec: Any) -> None:
        """Write with the version that was read: of two who try, one gets a conflict."""
        body = self._body(spec, lease.metadata.resource_version)
        written = await self.client.replace(LEASES, self.key, body)
        self._observe(written)

    def _body(self, spec: Any, version: str) -> dict[str, Any]:
        metadata = {"name": self.key.name, "namespace": self.key.namespace}
        if version:
            metadata["resourceVersion"] = version
        kind = {"apiVersion": LEASES.api_version, "kind": LEASES.kind}
        return {**kind, "metadata": metadata, "spec": spec}

    def _stamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _tell(self) -> None:
        if self.leads != self._said:
            self._said = self.leads
            log.info("lease %s: %s", self.key, "we lead" if self._said else "we do not lead")
            self.changed(self._said)
